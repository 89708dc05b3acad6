/** A proxy before the gateway that fails on demand. */

import { once } from "node:events";
import http from "node:http";

/**
 * What goes wrong with one request. Nothing of it: the request is forwarded.
 * @typedef {object} Fault
 * @property {number} [status] Answered by the proxy itself, with `headers` and `body`.
 * @property {Record<string, string>} [headers]
 * @property {string} [body]
 * @property {true} [drop] The connection is closed without an answer.
 * @property {true} [silent] Nothing is answered, and the connection stays open.
 * @property {string[]} [strip] Request headers that are not forwarded.
 * @property {string} [host] The `Host` that is forwarded.
 * @property {number} [cutAfter] The connection is closed after so many bytes of the body.
 * @property {number} [stallAfter] Nothing more is forwarded after so many bytes of the body.
 * @property {true} [buffered] Headers and body are forwarded when the body is complete.
 * @property {Record<string, string>} [answerHeaders] Replace headers of the answer.
 */

/** Starts a proxy of `target`. `proxy.fault(request, number)` returns the fault of each request. */
export async function startProxy(target) {
  const proxy = {
    /** Every request: `{ url, headers, at }`. */
    requests: [],
    /** @type {(request: { url: string, headers: http.IncomingHttpHeaders }, number: number) => Fault | undefined} */
    fault: () => undefined,
    url: "",
    /** The same proxy at another origin. */
    otherUrl: "",
    async close() {
      for (const server of servers) {
        server.close();
        server.closeAllConnections();
        await once(server, "close");
      }
    },
  };
  const servers = [];
  for (const name of ["url", "otherUrl"]) {
    const server = http.createServer((request, response) => {
      const seen = { url: request.url, headers: request.headers, at: Date.now() };
      proxy.requests.push(seen);
      forward(target, request, response, proxy.fault(seen, proxy.requests.length) ?? {});
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    proxy[name] = `http://127.0.0.1:${server.address().port}`;
    servers.push(server);
  }
  return proxy;
}

/** @param {Fault} fault */
function forward(target, request, response, fault) {
  if (fault.drop) return request.socket.destroy();
  if (fault.silent) return;
  if (fault.status) return response.writeHead(fault.status, fault.headers).end(fault.body);
  const headers = { ...request.headers };
  for (const name of fault.strip ?? []) delete headers[name];
  if (fault.host) headers.host = fault.host;
  const upstream = http.request(target + request.url, { method: request.method, headers, agent: false });
  upstream.on("error", () => response.destroy());
  upstream.on("response", (answer) => {
    answer.on("error", () => response.destroy());
    if (fault.buffered) return answer.toArray().then((chunks) => reply(answer, fault, response, chunks), () => {});
    reply(answer, fault, response);
    let left = fault.cutAfter ?? fault.stallAfter ?? Infinity;
    answer.on("data", (chunk) => {
      if (left > 0) response.write(chunk.subarray(0, left));
      left -= chunk.length;
      if (left <= 0 && fault.cutAfter !== undefined) setImmediate(() => response.destroy());
    });
    answer.on("end", () => {
      if (left > 0) response.end();
    });
  });
  response.on("close", () => upstream.destroy());
  upstream.end();
}

function reply(answer, fault, response, chunks) {
  response.writeHead(answer.statusCode, { ...answer.headers, ...fault.answerHeaders });
  response.flushHeaders();
  if (chunks) response.end(Buffer.concat(chunks));
}
