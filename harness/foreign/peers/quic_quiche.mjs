// A QUIC peer made of @matrixai/quic (quiche): `node quic_quiche.mjs HOME client|server ..`, where HOME holds node_modules.
// The same words and events as quic_asyncio.py, which has the description.
import { readFileSync } from 'node:fs';
import { createHmac, randomFillSync, timingSafeEqual } from 'node:crypto';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import path from 'node:path';

const TURN = 'your turn';
const DONE = 0;
let current;
const [home, role, ...words] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(home, 'node_modules', '@matrixai', name, 'dist', 'index.js')));
const quic = await load('quic');
const { default: Logger, LogLevel } = await load('logger');
const logger = new Logger('peer', LogLevel.SILENT ?? 100, []);
const number = { type: 'string' };
const { values: given } = parseArgs({
  args: words,
  options: {
    address: number, alpn: { type: 'string', multiple: true }, 'server-name': number, ca: number, certificate: number, key: number,
    streams: number, unis: number, datagrams: number, octets: number, seconds: number, turn: { type: 'boolean' },
  },
});
const wanted = {
  streams: Number(given.streams ?? 0), unis: Number(given.unis ?? 0), datagrams: Number(given.datagrams ?? 0),
  octets: Number(given.octets ?? 1000), seconds: Number(given.seconds ?? 20),
};
const [, host, port] = /^\[?(.*?)\]?:(\d+)$/.exec(given.address);

const say = (event, values = {}) => process.stdout.write(`${JSON.stringify({ event, ...values })}\n`);
const payload = (index, octets) =>
  Buffer.from(Uint8Array.from({ length: octets }, (_, place) => (31 * place + 7 * index + (place >> 8)) & 0xff));
const config = () => ({
  applicationProtos: given.alpn,
  enableDgram: [true, 100, 100],
  maxIdleTimeout: wanted.seconds * 1000,
});

async function readAll(readable) {
  const parts = [];
  for await (const part of readable) parts.push(part);
  return Buffer.concat(parts);
}

// What one side of a connection sends and expects.
class Exchange {
  constructor(connection) {
    current = this;
    this.connection = connection;
    this.client = role === 'client';
    this.back = { streams: 0, unis: 0, datagrams: 0 };
    this.answered = 0;
    this.unis = [];
    this.datagrams = new Set();
    this.finished = new Promise((resolve) => { this.finish = resolve; });
    this.closed = new Promise((resolve) => { this.setClosed = resolve; });
    connection.addEventListener('EventQUICConnectionStream', ({ detail: stream }) => this.guard(this.accept(stream)));
    connection.addEventListener('EventQUICConnectionError', ({ detail: error }) => {
      this.setClosed(error.data?.errorCode ?? -1);
    });
    // The library has no events for datagrams: look what quiche holds after each packet.
    const receive = connection.recv.bind(connection);
    connection.recv = async (...packet) => {
      await receive(...packet);
      for (let data; (data = this.pull()) != null;) await this.datagram(Buffer.from(data));
    };
  }

  get alpn() {
    return Buffer.from(this.connection.conn.applicationProto()).toString();
  }

  pull() {
    return this.connection.conn.isEstablished() ? this.connection.conn.dgramRecvVec() : null;
  }

  guard(promise) {
    promise.catch((error) => { if (!this.over) say('error', { message: String(error.message) }); });
  }

  start() {
    for (let index = 0; index < wanted.streams; index++) this.guard(this.open(payload(index, wanted.octets)));
    if (this.client) {
      for (let index = 0; index < wanted.unis; index++) {
        const content = payload(100 + index, wanted.octets);
        this.unis.push(content);
        this.guard(this.write('uni', content));
      }
      for (let index = 0; index < wanted.datagrams; index++) {
        const content = payload(200 + index, 100 + index);
        this.datagrams.add(content.toString('hex'));
        this.guard(this.send(content));
      }
    }
    this.started = true;
    this.look();
  }

  async write(type, content) {
    const stream = this.connection.newStream(type);
    const writer = stream.writable.getWriter();
    await writer.write(content);
    await writer.close();
    return stream;
  }

  async open(content) {
    const stream = this.connection.newStream('bidi');
    const reading = readAll(stream.readable);
    const writer = stream.writable.getWriter();
    await writer.write(content);
    await writer.close();
    const whole = await reading;
    if (!whole.equals(content)) say('error', { message: `stream ${stream.streamId} came back otherwise: ${whole.length} octets` });
    else if (content.toString() !== TURN) this.back.streams += 1;
    this.look();
  }

  async accept(stream) {
    if (stream.type === 'uni') {
      const whole = await readAll(stream.readable);
      if (this.client) {
        this.back.unis += this.unis.some((content) => content.equals(whole)) ? 1 : 0;
      } else {
        this.answered += 1;
        await this.write('uni', whole);
      }
      this.look();
      return;
    }
    const writer = stream.writable.getWriter();
    const parts = [];
    for await (const part of stream.readable) {
      parts.push(part);
      await writer.write(part);
    }
    await writer.close();
    this.answered += 1;
    if (!this.client && Buffer.concat(parts).toString() === TURN) this.start();
  }

  async send(content) {
    this.connection.conn.dgramSend(content);
    await this.connection.send();
  }

  async datagram(data) {
    if (!this.client) return this.send(data);
    if (this.datagrams.delete(data.toString('hex'))) this.back.datagrams += 1;
    this.look();
  }

  missing() {
    const due = this.client ? ['streams', 'unis', 'datagrams'] : ['streams'];
    return Object.fromEntries(due.map((kind) => [kind, wanted[kind] - this.back[kind]]).filter(([, count]) => count > 0));
  }

  look() {
    if (this.started && Object.keys(this.missing()).length === 0) this.finish();
  }
}

async function beClient() {
  const client = await quic.QUICClient.createQUICClient({
    host, port: Number(port), serverName: given['server-name'], localHost: host.includes(':') ? '::' : '0.0.0.0', logger,
    crypto: { ops: { randomBytes: async (data) => { randomFillSync(new Uint8Array(data)); } } },
    config: { ...config(), ca: readFileSync(given.ca, 'utf8'), verifyPeer: true },
  });
  const exchange = new Exchange(client.connection);
  say('connected', { alpn: exchange.alpn });
  exchange.start();
  await Promise.race([exchange.finished, exchange.closed]);
  const whole = Object.keys(exchange.missing()).length === 0;
  let code = null;
  if (whole && given.turn) {
    exchange.guard(exchange.open(Buffer.from(TURN)));
    code = await exchange.closed;
  } else if (whole) {
    exchange.over = true;
    await client.destroy({ isApp: true, errorCode: DONE, force: true });
  }
  say('done', { alpn: exchange.alpn, ...exchange.back, answered: exchange.answered, code });
  if (!whole) {
    const ended = `; the peer closed with 0x${(await exchange.closed).toString(16)}`;
    say('error', { message: `did not come back: ${JSON.stringify(exchange.missing())}${ended}` });
  }
  return whole && (code ?? DONE) === DONE ? 0 : 1;
}

async function beServer() {
  const secret = randomFillSync(new Uint8Array(32)).buffer;
  const sign = async (key, data) => {
    const mac = createHmac('sha256', Buffer.from(key)).update(Buffer.from(data)).digest();
    return mac.buffer.slice(mac.byteOffset, mac.byteOffset + mac.byteLength);
  };
  const server = new quic.QUICServer({
    logger,
    crypto: {
      key: secret,
      ops: { sign, verify: async (key, data, mac) => timingSafeEqual(Buffer.from(await sign(key, data)), Buffer.from(mac)) },
    },
    config: {
      ...config(), verifyPeer: false, cert: readFileSync(given.certificate, 'utf8'), key: readFileSync(given.key, 'utf8'),
    },
  });
  server.addEventListener('EventQUICServerConnection', ({ detail: connection }) => {
    const exchange = new Exchange(connection);
    const watch = async () => {
      await Promise.race([exchange.finished, exchange.closed]);
      const { alpn } = exchange;
      const whole = Object.keys(exchange.missing()).length === 0 && exchange.started;
      exchange.over = true;
      const code = whole ? DONE : await exchange.closed;
      say('closed', { alpn, streams: exchange.back.streams, answered: exchange.answered, code });
      if (whole) await connection.stop({ isApp: true, errorCode: DONE, force: true });
    };
    exchange.guard(watch());
  });
  await server.start({ host, port: Number(port) });
  say('listening', { port: server.port });
  process.stdin.resume();
  await new Promise((resolve) => { process.stdin.once('end', resolve); });
  return 0;
}

function fail(error) {
  say('error', { message: String(error?.message ?? error).replaceAll('\n', ' ') });
  process.exit(1);
}

process.once('unhandledRejection', fail);
process.once('uncaughtException', fail);
if (role === 'client') {
  setTimeout(() => {
    const state = current === undefined ? 'no connection' : `did not come back: ${JSON.stringify(current.missing())}`;
    fail(`not done within ${wanted.seconds} s; ${state}`);
  }, wanted.seconds * 1000).unref();
}
process.exit(await (role === 'client' ? beClient() : beServer()).catch(fail));
