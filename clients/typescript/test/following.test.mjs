import assert from "node:assert/strict";
import { test } from "node:test";

import {
  all,
  append,
  clientOf,
  finish,
  GATEWAY_URL,
  loseLastEvent,
  openJob,
  reload,
  take,
  token,
  until,
  useProxy,
} from "./support/gateway.mjs";

const used = useProxy();
const isStream = (request) => request.headers.accept === "text/event-stream";
const messagesOf = (events) => events.map((event) => event.message ?? event.event.message);

const feedOf = (client) => (options) => client.events(options);

/** Writes `number` events and the end of the job. `during(n)` runs before event n. */
async function write(job, number, during = () => undefined) {
  for (let n = 0; n < number; n++) {
    await during(n);
    await append(job, "stage", `event ${n}`);
  }
  await finish(job);
}

const written = (number) => [...Array.from({ length: number }, (_, n) => `event ${n}`), "Done"];

/** Follows a job while it is written, and checks that each event comes once and in order. */
async function followWhileWriting(number, options, during) {
  const job = await openJob();
  const followed = all(clientOf(used.proxy, options).jobs.events(job));
  const [events] = await Promise.all([followed, write(job, number, during)]);
  assert.deepEqual(messagesOf(events), written(number));
  return job;
}

test("a job is followed to its end on one stream", async () => {
  const job = await followWhileWriting(5, {}, () => until(() => used.proxy.requests.length > 0));
  assert.deepEqual(used.proxy.requests.map(isStream), [true]);
  const { jobs } = clientOf(used.proxy);
  assert.deepEqual(messagesOf(await all(jobs.events(job, { since: 4 }))), ["event 4", "Done"]);
  assert.deepEqual(await all(jobs.events(job, { since: 6 })), []);
  await assert.rejects(all(jobs.events("01JADE5XAMPK9M0Q7RS3T4V5W6")), { code: "JOB_NOT_FOUND" });
});

const FAULTS = [
  { cutAfter: 500 },
  { drop: true },
  undefined,
  { status: 429, headers: { "Retry-After": "1" }, body: '{"code": "RATE_LIMITED", "detail": "Slow down."}' },
  { cutAfter: 900 },
  { status: 503, headers: { "Retry-After": "1" } },
  { cutAfter: 1 },
];

test("drops, 429, 503 and a reload in between lose and repeat nothing of a job", async () => {
  used.proxy.fault = (_, number) => FAULTS[(number - 1) % FAULTS.length];
  await followWhileWriting(30, {}, (n) => (n === 15 ? reload() : undefined));
  assert(used.proxy.requests.length > 5);
});

test("drops, 429, 503 and a reload in between lose and repeat nothing of the feed", async () => {
  used.proxy.fault = (_, number) => FAULTS[(number - 1) % FAULTS.length];
  const [one, other] = [await openJob(), await openJob()];
  const feed = take(40, clientOf(used.proxy).events({ after: "latest" }));
  await until(() => used.proxy.requests.some(({ url }) => url.includes("after=") && !url.includes("after=latest")));
  for (let n = 0; n < 40; n++) {
    if (n === 20) await reload();
    await append(n % 2 ? one : other, "stage", `event ${n}`);
  }
  assert.deepEqual(messagesOf(await feed), written(40).slice(0, -1));
});

test("a stream that ends early is continued", async () => {
  const job = await openJob();
  await write(job, 3);
  used.proxy.fault = (_, number) => (number === 1 ? { cutAfter: 700 } : undefined);
  assert.deepEqual(messagesOf(await all(clientOf(used.proxy).jobs.events(job))), written(3));
});

const DEFECTS = {
  "holds streams back": (request) => (isStream(request) ? { buffered: true } : undefined),
  "lets streams fall silent": (request) => (isStream(request) ? { stallAfter: 20 } : undefined),
  "removes what asks for a stream": () => ({ strip: ["accept"] }),
  "cuts every stream in its first event": (request) => (isStream(request) ? { cutAfter: 100 } : undefined),
};
for (const [defect, fault] of Object.entries(DEFECTS)) {
  test(`behind a proxy that ${defect} a job is followed by waiting`, async () => {
    used.proxy.fault = fault;
    const waits = () => used.proxy.requests.some((request) => request.headers.prefer === "wait=25");
    const options = { streamStartTimeoutMs: 500, silenceTimeoutMs: 500 };
    await followWhileWriting(5, options, (n) => (n === 2 ? until(waits) : undefined));
  });
}

test("behind a proxy that removes Accept and Prefer a job is polled as slowly as the gateway says", async () => {
  used.proxy.fault = () => ({ strip: ["accept", "prefer"] });
  const job = await openJob();
  const followed = all(clientOf(used.proxy).jobs.events(job));
  await until(() => used.proxy.requests.length >= 3);
  await write(job, 2);
  assert.deepEqual(messagesOf(await followed), written(2));
  const [, second, third] = used.proxy.requests; // the first one asked for a stream
  assert(third.at - second.at >= 1990, "Retry-After: 2");
});

test("a tenant with too many streams is polled, although no stream is free", async () => {
  const job = await openJob();
  const headers = { Authorization: `Bearer ${token()}`, Accept: "text/event-stream" };
  const holding = new AbortController();
  const hold = () => fetch(`${GATEWAY_URL}/v1/events`, { headers, signal: holding.signal });
  while ((await hold()).status === 200);
  const followed = all(clientOf(used.proxy).jobs.events(job));
  await until(() => used.proxy.requests.length >= 2);
  await write(job, 2);
  assert.deepEqual(messagesOf(await followed), written(2));
  holding.abort();
});

test("the feed goes on behind the cursor of any of its events", async () => {
  const job = await openJob();
  await write(job, 4);
  await append(await openJob("restart"), "submitted", "other", { hostname: "gpu-1" });
  const events = feedOf(clientOf(used.proxy));
  const whole = await take(6, events());
  assert.deepEqual(messagesOf(whole), [...written(4), "other"]);
  assert.deepEqual([whole[0].id, whole[0].type], [`${job}-1`, "job.stage"]);
  for (const [index, { cursor }] of whole.slice(0, -1).entries()) {
    const [next] = await take(1, events({ after: cursor }));
    assert.equal(next.id, whole[index + 1].id);
  }
  const stages = await take(2, events({ event_type: ["succeeded", "submitted"] }));
  assert.deepEqual(messagesOf(stages), ["Done", "other"]);
});

test("in pages the feed repeats at most a page after a restart, and loses nothing", async () => {
  used.proxy.fault = () => ({ strip: ["accept"] });
  await write(await openJob(), 4);
  const events = feedOf(clientOf(used.proxy));
  const whole = await take(5, events());
  assert.deepEqual(messagesOf(whole), written(4));
  const [again] = await take(1, events({ after: whole[2].cursor }));
  assert.equal(again.id, whole[1].id, "the page began behind the first event");
});

test("a store that was restored begins the feed again, without what was handed out", async () => {
  const job = await openJob();
  for (const message of ["one", "two", "lost"]) await append(job, "stage", message);
  const feed = clientOf(used.proxy).events();
  const next = async () => (await feed.next()).value.event.message;
  assert.deepEqual([await next(), await next(), await next()], ["one", "two", "lost"]);
  await loseLastEvent();
  await reload(); // ends the stream, so that the client asks with its cursor
  const other = await openJob();
  await append(other, "stage", "new");
  assert.equal(await next(), "new");
  await feed.return();
});

test("leaving the loop or aborting ends the stream", async () => {
  const job = await openJob();
  await append(job, "queued", "one");
  const { jobs } = clientOf(used.proxy);
  await take(1, jobs.events(job));
  const reason = new Error("The user has left.");
  const controller = new AbortController();
  const followed = jobs.events(job, { signal: controller.signal });
  await followed.next();
  const rejected = assert.rejects(followed.next(), reason);
  controller.abort(reason);
  await rejected;
});

test("a follower gives up when nothing has worked for its time", async () => {
  used.proxy.fault = () => ({ drop: true });
  const { jobs } = clientOf(used.proxy, { followRetryForMs: 1000 });
  await assert.rejects(all(jobs.events("x")), { name: "ConnectionError", code: "CONNECTION_FAILED" });
});
