import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, ConnectionError, JobsGateway, JobsGatewayError } from "@jobs-gateway/client";

import {
  all,
  append,
  clientOf,
  finish,
  GATEWAY_URL,
  openJob,
  take,
  token,
  until,
  useProxy,
} from "./support/gateway.mjs";
import { startProxy } from "./support/proxy.mjs";

const used = useProxy();

test("a list goes through all pages, newest first, and keeps its filters", async () => {
  const ids = [];
  for (let n = 0; n < 7; n++) ids.unshift(await openJob(n === 3 ? "BACKGROUND_GENERATOR" : "MODEL_GENERATOR"));
  await finish(ids[0]);
  const { jobs } = clientOf(used.proxy);
  const listed = jobs.list({ limit: 3 });
  assert.deepEqual((await all(listed)).map((job) => job.public_id), ids);
  assert.deepEqual((await all(listed.pages())).map((page) => page.count), [3, 3, 1]);
  const job_type = ["BACKGROUND_GENERATOR", "MODEL_SWAP_WITH_IMAGE"];
  assert.deepEqual((await all(jobs.list({ job_type, limit: 1 }))).map((job) => job.public_id), [ids[3]]);
  assert.deepEqual((await all(jobs.list({ status: "SUCCESS" }))).map((job) => job.public_id), [ids[0]]);
  const { created_at } = await jobs.get(ids[2]);
  assert.deepEqual((await all(jobs.list({ created_after: created_at }))).map((job) => job.public_id), ids.slice(0, 2));
});

test("the next page is asked of the gateway, whatever host its link names", async () => {
  await Promise.all([openJob(), openJob()]);
  used.proxy.fault = () => ({ host: "localhost:1" });
  const listed = await take(2, clientOf(used.proxy).jobs.list({ limit: 1 }));
  assert.equal(listed.length, 2);
});

test("the fleet is listed once each, with its counts", async () => {
  const ids = [];
  for (let n = 0; n < 3; n++) {
    ids.unshift(await openJob("restart"));
    await append(ids[0], "submitted", "", { hostname: "gpu-1" });
  }
  const { fleet } = clientOf(used.proxy);
  const listed = fleet.list({ status: "submitted", limit: 2 });
  const items = [];
  for await (const item of listed) {
    if (items.length === 0) await append(await openJob("restart"), "submitted", "", { hostname: "gpu-1" });
    items.push(item);
  }
  assert.equal(new Set(items.map((item) => item.id)).size, items.length);
  assert.deepEqual(new Set(items.map((item) => item.status)), new Set(["submitted"]));
  const [page] = await take(1, listed.pages());
  assert.equal(page.total_items, page.status_counts.submitted);
  await assert.rejects(all(fleet.list({ status: "broken" })), { name: "ApiError", status: 400, code: "HTTP_400" });
});

test("no job of the fleet is left out when others leave the list", async () => {
  const ids = [];
  for (let n = 0; n < 6; n++) {
    ids.unshift(await openJob("restart"));
    await append(ids[0], "acknowledged", "", { hostname: "gpu-1" });
  }
  const items = [];
  for await (const item of clientOf(used.proxy).fleet.list({ status: "processing", limit: 2 })) {
    if (items.length === 1) for (const id of ids.slice(0, 2)) await append(id, "completed", "", { hostname: "gpu-1" });
    items.push(item.id);
  }
  const jobs = await all(clientOf(used.proxy).fleet.list({ status: "processing" }));
  const left = jobs.map((job) => job.id).filter((id) => !items.includes(id));
  assert.deepEqual(left, []);
  assert.equal(new Set(items).size, items.length);
});

test("errors have code, detail and the request's id", async () => {
  const { jobs } = clientOf(used.proxy);
  await assert.rejects(jobs.get("01JADE5XAMPK9M0Q7RS3T4V5W6"), (error) => {
    assert(error instanceof ApiError && error instanceof JobsGatewayError);
    assert.deepEqual([error.status, error.code], [404, "JOB_NOT_FOUND"]);
    assert.match(error.detail, /\w+ \w+/);
    assert.equal(error.requestId, used.proxy.requests[0].headers["x-request-id"]);
    return true;
  });
  await assert.rejects(all(jobs.list({ limit: 0, offset: -1 })), (error) => {
    assert.deepEqual([error.status, error.code], [422, "INVALID_PARAMETERS"]);
    assert.deepEqual(error.problems.map(({ loc }) => loc), [["query", "limit"], ["query", "offset"]]);
    assert.match(error.detail, /query\.limit: .*; query\.offset: /);
    return true;
  });
  const stranger = clientOf(used.proxy, { token: "wrong" });
  await assert.rejects(stranger.jobs.get("x"), { status: 401, code: "UNAUTHENTICATED" });
  assert.equal(used.proxy.requests.length, 3, "nothing was repeated");
});

test("429 and 503 are repeated after Retry-After, and lost connections too", async () => {
  const job = await openJob();
  const faults = [
    { status: 429, headers: { "Retry-After": "1" }, body: '{"code": "RATE_LIMITED", "detail": "Slow down."}' },
    { status: 503, headers: { "Retry-After": new Date(Date.now() + 2000).toUTCString() } },
    { drop: true },
    { cutAfter: 10 },
  ];
  for (const fault of faults) {
    used.proxy.requests.length = 0;
    used.proxy.fault = (_, nth) => (nth === 1 ? fault : undefined);
    assert.equal((await clientOf(used.proxy).jobs.get(job)).public_id, job);
    const [first, second, ...others] = used.proxy.requests;
    assert.deepEqual(others, []);
    assert.notEqual(first.headers["x-request-id"], second.headers["x-request-id"]);
    if (fault.status === 429) assert(second.at - first.at >= 990);
    if (fault.status === 503) assert(second.at >= Date.parse(fault.headers["Retry-After"]));
  }
});

test("a Retry-After beyond the time that a request may take is not waited for", async () => {
  used.proxy.fault = () => ({ status: 503, headers: { "Retry-After": "3600" } });
  await assert.rejects(clientOf(used.proxy).jobs.get("x"), { status: 503, retryAfterMs: 3_600_000 });
});

test("what is no time after Retry-After, and one in years, leads to no hot loop", async () => {
  const job = await openJob();
  for (const [value, fewest] of [["5, 5", 2], ["-5", 2], ["Fri, 31 Dec 2999 23:59:59 GMT", 1], ["9".repeat(400), 1]]) {
    const begun = used.proxy.requests.length;
    used.proxy.fault = () => ({ status: 503, headers: { "Retry-After": value } });
    await assert.rejects(clientOf(used.proxy).jobs.wait(job, { timeout: 1500 }), { code: "JOB_TIMED_OUT" });
    const asked = used.proxy.requests.length - begun;
    assert(asked >= fewest && asked < 8, `${asked} requests with Retry-After: ${value.slice(0, 40)}`);
  }
});

test("errors of other JSON are errors of their status", async () => {
  used.proxy.fault = () => ({ status: 500, body: '{"detail": ["upstream down", null]}' });
  await assert.rejects(clientOf(used.proxy).jobs.get(await openJob()), { status: 500, code: "HTTP_500" });
});

test("a token that does not come is given up in time, or when the caller aborts", async () => {
  const client = (more) => new JobsGateway({ baseUrl: GATEWAY_URL, token: () => new Promise(() => {}), ...more });
  const patient = client({});
  await assert.rejects(client({ requestTimeoutMs: 100, retryForMs: 300 }).jobs.get("x"), { code: "TIMED_OUT" });
  await assert.rejects(patient.jobs.get("x", { signal: AbortSignal.timeout(100) }), { name: "TimeoutError" });
  await assert.rejects(patient.jobs.wait("x", { timeout: 100 }), { code: "JOB_TIMED_OUT" });
});

test("an address with a password or a query is refused", () => {
  for (const baseUrl of ["https://ada:secret@example.com", "https://example.com/?a=b", "https://example.com/#a"]) {
    assert.throws(() => new JobsGateway({ baseUrl, token }), TypeError);
  }
});

test("a request that goes on failing throws its last error", async () => {
  used.proxy.fault = () => ({ status: 503, body: "<html>" });
  const { jobs } = clientOf(used.proxy, { retryForMs: 1500 });
  await assert.rejects(jobs.get("x"), { name: "ApiError", status: 503, code: "HTTP_503" });
  assert(used.proxy.requests.length > 1);
  used.proxy.fault = () => ({ drop: true });
  await assert.rejects(jobs.get("x"), { name: "ConnectionError", code: "CONNECTION_FAILED" });
});

test("a server that says nothing, or stops in the middle, is given up in time", async () => {
  const job = await openJob();
  const { jobs } = clientOf(used.proxy, { requestTimeoutMs: 300, retryForMs: 0 });
  for (const fault of [{ silent: true }, { stallAfter: 5 }]) {
    used.proxy.fault = () => fault;
    await assert.rejects(jobs.get(job), (error) => error instanceof ConnectionError && error.code === "TIMED_OUT");
  }
});

test("a caller can abort at any time, and gets the reason", async () => {
  const { jobs } = clientOf(used.proxy);
  const reason = new Error("The user has left.");
  await assert.rejects(jobs.get("x", { signal: AbortSignal.abort(reason) }), reason);
  for (const fault of [{ silent: true }, { status: 503, headers: { "Retry-After": "30" } }]) {
    used.proxy.requests.length = 0;
    used.proxy.fault = () => fault;
    const controller = new AbortController();
    const rejected = assert.rejects(jobs.get("x", { signal: controller.signal }), reason);
    await until(() => used.proxy.requests.length > 0);
    controller.abort(reason);
    await rejected;
  }
});

test("a redirect is an error, and the token does not follow it", async () => {
  const elsewhere = await startProxy(GATEWAY_URL);
  used.proxy.fault = () => ({ status: 302, headers: { Location: `${elsewhere.url}/v1/jobs` } });
  await assert.rejects(clientOf(used.proxy).jobs.get("x"), { name: "ApiError", code: "REDIRECTED" });
  assert.deepEqual(elsewhere.requests, []);
  await elsewhere.close();
});

test("what is no gateway is said so", async () => {
  used.proxy.fault = () => ({ status: 200, body: "<html>Welcome</html>" });
  await assert.rejects(clientOf(used.proxy).jobs.get("x"), { code: "INVALID_RESPONSE", status: 200 });
  for (const baseUrl of ["jobs.example.com", "localhost:8000"]) {
    assert.throws(() => new JobsGateway({ baseUrl, token: "x" }), TypeError);
  }
});

test("the token comes from the argument, a function or the environment", async () => {
  const job = await openJob();
  const given = token();
  const sent = async (options) => {
    await clientOf(used.proxy, options).jobs.get(job);
    return used.proxy.requests.at(-1).headers.authorization;
  };
  assert.equal(await sent({}), `Bearer ${given}`);
  delete process.env.JOBS_GATEWAY_TOKEN;
  assert.equal(await sent({ token: given }), `Bearer ${given}`);
  assert.equal(await sent({ token: async () => given }), `Bearer ${given}`);
  assert.throws(() => clientOf(used.proxy), { code: "NO_TOKEN" });
  await assert.rejects(clientOf(used.proxy, { token: "secret\n" }).jobs.get(job), (error) => {
    assert.equal(error.code, "INVALID_TOKEN");
    assert.doesNotMatch(String(error.stack), /secret/);
    return true;
  });
});
