// An adapter in Node, and the engine that it presents: TLS ends here, plain TCP goes to the upstream.
// A template: replace what `start`, `publish` and `stop` do with what your engine needs. See docs/adapters.md.
import net from "node:net";
import tls from "node:tls";
import fs from "node:fs";
import readline from "node:readline";

const FEATURES = ["tls.1.2", "tls.alpn", "tls.min-version", "tls.terminated"];
const VERSIONS = { "tls1.2": "TLSv1.2", "tls1.3": "TLSv1.3" };
const KNOWN = ["protocol", "publish", "tls_mode", "tls_alpns", "tls_min_version"];
const tunnels = new Map(); // key -> listener
const sockets = new Set();
let start = null;

function lacking({ properties }) {
  const unknown = Object.keys(properties).find((name) => !KNOWN.includes(name));
  if (unknown) return unknown;
  if (properties.protocol !== "tls") return String(properties.protocol ?? "http.h1");
  if ((properties.tls_mode ?? "terminated") !== "terminated") return "tls.passthrough";
  return null;
}

function carry(client, upstream) {
  const server = net.connect({ host: upstream.address, port: upstream.port, allowHalfOpen: true });
  for (const socket of [client, server]) {
    sockets.add(socket);
    socket.on("error", () => { client.destroy(); server.destroy(); });
    socket.on("close", () => sockets.delete(socket));
  }
  client.pipe(server).pipe(client);
}

async function publishOne(spec) {
  const missing = lacking(spec);
  if (missing) return { unsupported: missing };
  const options = {
    cert: fs.readFileSync(start.certificate.chain),
    key: fs.readFileSync(start.certificate.key),
    minVersion: VERSIONS[spec.properties.tls_min_version ?? "tls1.2"],
    allowHalfOpen: true,
  };
  if (spec.properties.tls_alpns) options.ALPNProtocols = spec.properties.tls_alpns;
  const listener = tls.createServer(options, (client) => carry(client, spec.upstream));
  listener.on("tlsClientError", () => {});
  await new Promise((resolve, reject) => listener.on("error", reject).listen(0, "127.0.0.1", resolve));
  tunnels.set(spec.key, listener);
  return { endpoint: { host: spec.host, address: "127.0.0.1", port: listener.address().port, transport: "tcp" } };
}

function unpublish(keys) {
  for (const key of keys) tunnels.get(key)?.close();
  for (const key of keys) tunnels.delete(key);
}

function stop() {
  unpublish([...tunnels.keys()]);
  for (const socket of sockets) socket.destroy();
}

const methods = {
  hello: () => ({ protocol: 1, name: "node-tls", version: process.version, features: FEATURES, can_refuse: false }),
  start: (params) => {
    const unsupported = Object.keys(params.settings);
    if (unsupported.length) return { unsupported };
    start = params;
    return {};
  },
  publish: async ({ specs }) => ({ results: await Promise.all(specs.map(publishOne)) }),
  unpublish: ({ keys }) => (unpublish(keys), {}),
  status: () => ({ running: start !== null, pid: process.pid }),
  restart: () => { for (const socket of sockets) socket.destroy(); return {}; },
  log: () => ({ lines: [] }),
  shutdown: () => (stop(), {}),
};

// One message a line; answers carry the id of their request. stdout is for nothing else.
for await (const line of readline.createInterface({ input: process.stdin })) {
  const { id, method, params } = JSON.parse(line);
  const reply = { jsonrpc: "2.0", id };
  if (!Object.hasOwn(methods, method)) reply.error = { code: -32601, message: `no method ${method}` };
  else {
    try { reply.result = await methods[method](params ?? {}); }
    catch (error) { reply.error = { code: -32000, message: String(error.message) }; }
  }
  process.stdout.write(JSON.stringify(reply) + "\n");
  if (method === "shutdown") break;
}
stop();
process.stdin.destroy(); // the suite may keep its end open: nothing else holds us
