/** The gateway under test, and its backend: tests/test_typescript_client.py starts both. */

import { after, before, beforeEach } from "node:test";

import { JobsGateway } from "@jobs-gateway/client";

import { startProxy } from "./proxy.mjs";

export const GATEWAY_URL = process.env.GATEWAY_URL;
/** The token of the test's tenant. */
export const token = () => process.env.JOBS_GATEWAY_TOKEN;

/** Calls the backend, which writes through the ledger. */
async function backend(call, details) {
  const response = await fetch(process.env.BACKEND_URL, { method: "POST", body: JSON.stringify({ call, ...details }) });
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

/** Opens a job; returns its id. */
export const openJob = (jobType = "MODEL_GENERATOR") => backend("open_job", { job_type: jobType });
/** Appends an event. `details.picture` is a file name: a picture with that name is stored and recorded. */
export const append = (job, eventType, message, details = {}) =>
  backend("append", { job, event_type: eventType, message, ...details });
export const finish = (job, details) => append(job, "succeeded", "Done", details);
export const fail = (job) => append(job, "failed", "Broken");
/** The bytes of the stored picture. */
export const pictureBytes = async (name) => Buffer.from(await backend("picture", { name }), "base64");
/** Deletes the files of all pictures. */
export const deletePictures = () => backend("delete_pictures");
/** As after a restore of a backup that was made before the last event of the feed. */
export const loseLastEvent = () => backend("lose_last_event");
/** Reloads the gateway as systemd does. */
export const reload = () => backend("reload");

/** A proxy before the gateway, for all tests of a file. Each test has a new tenant, and begins without faults. */
export function useProxy() {
  const used = {};
  before(async () => {
    used.proxy = await startProxy(GATEWAY_URL);
  });
  beforeEach(async () => {
    process.env.JOBS_GATEWAY_TOKEN = await backend("new_tenant");
    used.proxy.requests.length = 0;
    used.proxy.fault = () => undefined;
  });
  after(() => used.proxy.close());
  return used;
}

/** A client behind the proxy. */
export const clientOf = (proxy, options) => new JobsGateway({ baseUrl: proxy.url, ...options });

/** Resolves when `isSo()` returns something true. The test runner's time limit ends it otherwise. */
export async function until(isSo) {
  for (;;) {
    const value = await isSo();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** The first `number` items of an iterator, which is then closed. */
export async function take(number, items) {
  const taken = [];
  for await (const item of items) if (taken.push(item) === number) break;
  return taken;
}

export const all = (items) => take(Infinity, items);
