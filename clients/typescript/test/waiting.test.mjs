import assert from "node:assert/strict";
import { test } from "node:test";

import { JobTimeoutError } from "@jobs-gateway/client";

import { append, clientOf, fail, finish, openJob, reload, until, useProxy } from "./support/gateway.mjs";

const used = useProxy();

/** Waits for a job; `write(job)` runs when the gateway has been asked. */
async function waitWhile(write, options) {
  const job = await openJob();
  const waited = clientOf(used.proxy).jobs.wait(job, options);
  await until(() => used.proxy.requests.length > 0);
  await write(job);
  return waited;
}

test("a job is returned when it is over, whether it succeeded or failed", async () => {
  const succeeded = await waitWhile(async (job) => {
    await append(job, "stage", "one");
    await finish(job, { picture: "front.png" });
  });
  assert.equal(succeeded.status, "SUCCESS");
  assert.equal(succeeded.latest_event.message, "Done");
  assert.deepEqual(succeeded.result.map(({ kind, role }) => [kind, role]), [["render", "final"]]);
  const failed = await waitWhile(fail);
  assert.deepEqual([failed.status, failed.result], ["FAILURE", []]);
  const again = await clientOf(used.proxy).jobs.wait(failed.public_id, { timeout: 10_000 });
  assert.equal(again.status, "FAILURE");
});

test("an unfinished job is never returned: the error has its last state", async () => {
  const job = await openJob();
  await append(job, "stage", "one");
  await assert.rejects(clientOf(used.proxy).jobs.wait(job, { timeout: 4000 }), (error) => {
    assert(error instanceof JobTimeoutError);
    assert.equal(error.code, "JOB_TIMED_OUT");
    assert.deepEqual([error.job.status, error.job.latest_event.message], ["IN_PROGRESS", "one"]);
    return true;
  });
});

test("a gateway that cannot be reached has no last state, but a cause", async () => {
  used.proxy.fault = () => ({ drop: true });
  await assert.rejects(clientOf(used.proxy).jobs.wait("x", { timeout: 700 }), (error) => {
    assert.deepEqual([error.code, error.job, error.cause.code], ["JOB_TIMED_OUT", undefined, "CONNECTION_FAILED"]);
    return true;
  });
});

test("errors that waiting does not mend are thrown at once", async () => {
  await assert.rejects(clientOf(used.proxy).jobs.wait("x"), { code: "JOB_NOT_FOUND" });
  const reason = new Error("The user has left.");
  const controller = new AbortController();
  const waiting = waitWhile(() => controller.abort(reason), { signal: controller.signal });
  await assert.rejects(waiting, reason);
});

test("drops, 429, 503 and a reload in between are waited through", async () => {
  const faults = [{ drop: true }, { status: 429, headers: { "Retry-After": "1" } }, { cutAfter: 20 }, { status: 503 }];
  used.proxy.fault = (_, number) => faults[number - 1];
  const job = await waitWhile(async (id) => {
    await append(id, "stage", "one");
    await reload();
    await finish(id);
  });
  assert.equal(job.status, "SUCCESS");
});

test("without Prefer the job is polled as slowly as the gateway says", async () => {
  used.proxy.fault = () => ({ strip: ["prefer"] });
  const job = await openJob();
  const waited = clientOf(used.proxy).jobs.wait(job);
  await until(() => used.proxy.requests.length >= 2);
  await finish(job);
  assert.equal((await waited).status, "SUCCESS");
  const [first, second] = used.proxy.requests;
  assert(second.at - first.at >= 1990, "Retry-After: 2");
});
