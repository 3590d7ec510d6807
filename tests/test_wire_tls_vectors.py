"""The key schedules against published vectors: RFC 8448 section 3 whole, and the TLS 1.2 PRF."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from harness.wire.tls import TLS13, ClientOptions, HandshakeDone, HandshakeMessage, TlsClient
from harness.wire.tls.messages import ClientHello
from harness.wire.tls.numbers import SUITES, TLS_AES_128_GCM_SHA256
from harness.wire.tls.records import Aead13, RecordReader
from harness.wire.tls.schedule import KeySchedule, digest, expand_label, finished_mac, prf

CLIENT_PRIVATE = bytes.fromhex("49af42ba7f7994852d713ef2784bcbcaa7911de26adc5642cb634540e7ea5005")
CLIENT_HELLO = bytes.fromhex(
    "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece7000006130113031302010000910000000b0009"
    "000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000003300260024001d002099381de560"
    "e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e0403050306030203080408050806040105"
    "01060102010402050206020202002d00020101001c00024001"
)
SERVER_HELLO = bytes.fromhex(
    "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c982887611"
    "2095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304"
)
SERVER_FLIGHT_RECORD = bytes.fromhex(
    "17030302a2d1ff334a56f5bff6594a07cc87b580233f500f45e489e7f33af35edf7869fcf40aa40aa2b8ea73f848a7ca07612ef9f945cb960b"
    "4068905123ea78b111b429ba9191cd05d2a389280f526134aadc7fc78c4b729df828b5ecf7b13bd9aefb0e57f271585b8ea9bb355c7c790207"
    "16cfb9b1183ef3ab20e37d57a6b9d7477609aee6e122a4cf51427325250c7d0e509289444c9b3a648f1d71035d2ed65b0e3cdd0cbae8bf2d0b"
    "227812cbb360987255cc744110c453baa4fcd610928d809810e4b7ed1a8fd991f06aa6248204797e36a6a73b70a2559c09ead686945ba246ab"
    "66e5edd8044b4c6de3fcf2a89441ac66272fd8fb330ef8190579b3684596c960bd596eea520a56a8d650f563aad27409960dca63d3e688611e"
    "a5e22f4415cf9538d51a200c27034272968a264ed6540c84838d89f72c24461aad6d26f59ecaba9acbbb317b66d902f4f292a36ac1b639c637"
    "ce343117b659622245317b49eeda0c6258f100d7d961ffb138647e92ea330faeea6dfa31c7a84dc3bd7e1b7a6c7178af36879018e3f252107f"
    "243d243dc7339d5684c8b0378bf30244da8c87c843f5e56eb4c5e8280a2b48052cf93b16499a66db7cca71e4599426f7d461e66f99882bd89f"
    "c50800becca62d6c74116dbd2972fda1fa80f85df881edbe5a37668936b335583b599186dc5c6918a396fa48a181d6b6fa4f9d62d513afbb99"
    "2f2b992f67f8afe67f76913fa388cb5630c8ca01e0c65d11c66a1e2ac4c85977b7c7a6999bbf10dc35ae69f5515614636c0b9b68c19ed2e31c"
    "0b3b66763038ebba42f3b38edc0399f3a9f23faa63978c317fc9fa66a73f60f0504de93b5b845e275592c12335ee340bbc4fddd502784016e4"
    "b3be7ef04dda49f4b440a30cb5d2af939828fd4ae3794e44f94df5a631ede42c1719bfdabf0253fe5175be898e750edc53370d2b"
)
CLIENT_FINISHED_RECORD = bytes.fromhex(
    "170303003575ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f80338ac98fc46deb384bd1caeacab6867d726c405"
    "46"
)
APPLICATION = bytes(range(50))
CLIENT_DATA_RECORD = bytes.fromhex(
    "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a297"
    "7014bd1e3deae63aeebb21694915e4"
)
SERVER_DATA_RECORD = bytes.fromhex(
    "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c"
    "0047c2abf332540dd032e167c2955d"
)
CLIENT_ALERT_RECORD = bytes.fromhex("1703030013c9872760655666b74d7ff1153efd6db6d0b0e3")
SHARED = bytes.fromhex("8bd4054fb55b9d63fdfbacf9f04b9f0d35e6d63f537563efd46272900f89492d")
SERVER_APPLICATION_SECRET = bytes.fromhex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")


def record(content_type: int, version: int, payload: bytes) -> bytes:
    return bytes((content_type,)) + version.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload


def given(*values: bytes) -> Callable[[int], bytes]:
    """Randomness that is no more random than the trace."""
    left = list(values)
    return lambda count: (left.pop(0) if left else bytes(count))[:count]


def test_key_schedule_of_rfc_8448() -> None:
    schedule = KeySchedule("sha256")
    assert schedule.early_secret.hex() == "33ad0a1c607ec03b09e6cd9893680ce210adf300aa1f2660e1b22e10f170f92a"
    schedule.extract_handshake(SHARED)
    assert schedule.handshake_secret.hex() == "1dc826e93606aa6fdc0aadc12f741b01046aa6b99f691ed221a9f0ca043fbeac"
    transcript = digest("sha256", CLIENT_HELLO + SERVER_HELLO)
    client = schedule.handshake("c hs traffic", transcript)
    server = schedule.handshake("s hs traffic", transcript)
    assert client.hex() == "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"
    assert server.hex() == "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"
    assert expand_label("sha256", server, "key", b"", 16).hex() == "3fce516009c21727d0f2e4e86ee403bc"
    assert expand_label("sha256", server, "iv", b"", 12).hex() == "5d313eb2671276ee13000b30"
    schedule.extract_master()
    assert schedule.master_secret.hex() == "18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919"


def test_client_replays_the_handshake_of_rfc_8448_octet_by_octet() -> None:
    hello = ClientHello.decode(CLIENT_HELLO[4:])
    client = TlsClient(
        ClientOptions(
            server_name="server",
            versions=(TLS13,),
            session_id=b"",
            hello=lambda _: hello,
            random=given(hello.random, CLIENT_PRIVATE),
            now=datetime(2020, 1, 1, tzinfo=UTC),
        )
    )
    assert client.start() == record(22, 0x0301, CLIENT_HELLO)
    events = client.receive(record(22, 0x0303, SERVER_HELLO) + SERVER_FLIGHT_RECORD)
    names = [event.name for event in events if isinstance(event, HandshakeMessage)]
    assert names == ["ServerHello", "EncryptedExtensions", "Certificate", "CertificateVerify", "Finished"]
    assert isinstance(events[-1], HandshakeDone)
    assert client.server_verify_data.hex() == "9b9b141d906337fbd2cbdce71df4deda4ab42c309572cb7fffee5454b78f0718"
    assert client.client_verify_data.hex() == "a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61"
    assert client.outgoing() == CLIENT_FINISHED_RECORD
    assert client.send(APPLICATION) == CLIENT_DATA_RECORD
    assert client.close_notify() == CLIENT_ALERT_RECORD
    secrets = dict(line.split(" ", 1) for line in client.key_log)
    assert secrets["SERVER_TRAFFIC_SECRET_0"] == f"{hello.random.hex()} {SERVER_APPLICATION_SECRET.hex()}"


def test_application_record_of_rfc_8448_opens_under_its_sequence_number() -> None:
    reader = RecordReader()
    reader.change_keys(Aead13(SUITES[TLS_AES_128_GCM_SHA256], SERVER_APPLICATION_SECRET))
    reader.sequence = 1  # the NewSessionTicket of the trace was record 0
    reader.feed(SERVER_DATA_RECORD)
    found = reader.next()
    assert found is not None
    opened = reader.open(*found)
    assert (opened.type, opened.payload) == (23, APPLICATION)


def test_finished_of_rfc_8448() -> None:
    secret = bytes.fromhex("b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21")
    transcript = bytes.fromhex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13")
    expected = "a8ec436d677634ae525ac1fcebe11a039ec17694fac6e98527b642f2edd5ce61"
    assert finished_mac("sha256", secret, transcript).hex() == expected


def test_prf_of_tls_1_2() -> None:
    """The test vector for P_SHA256 that the TLS working group's list carries."""
    expected = (
        "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17"
        "abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66"
    )
    secret = bytes.fromhex("9bbe436ba940f017b17652849a71db35")
    seed = bytes.fromhex("a0ba9f936cda311827a6f796ffd5198c")
    assert prf("sha256", secret, "test label", seed, 100).hex() == expected
