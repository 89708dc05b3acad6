import assert from "node:assert/strict";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, test } from "node:test";

import { DownloadError } from "@jobs-gateway/client";

import {
  all,
  append,
  clientOf,
  deletePictures,
  finish,
  GATEWAY_URL,
  openJob,
  pictureBytes,
  take,
  until,
  useProxy,
} from "./support/gateway.mjs";
import { startProxy } from "./support/proxy.mjs";

const used = useProxy();
let folder;
before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "pictures-"));
});
after(() => rm(folder, { recursive: true }));

const isPicture = (request) => request.url.startsWith("/artifacts/");

async function finishedJob() {
  const job = await openJob();
  await append(job, "stage", "A draft", { picture: "draft.png", role: "intermediate" });
  await finish(job, { picture: "front.png" });
  return job;
}

/** Downloads to a file whose content is checked. */
async function download(artifact, name) {
  const file = path.join(folder, `${Math.random()}.png`);
  await artifact.download(file);
  assert((await readFile(file)).equals(await pictureBytes(name)));
}

/** Resolves when the link has expired. */
const expired = ({ image_url }) => until(async () => (await fetch(image_url)).status === 403);

test("pictures are downloaded, without the token", async () => {
  const job = await finishedJob();
  used.proxy.fault = () => ({ host: new URL(used.proxy.otherUrl).host }); // the store is at another origin
  const client = clientOf(used.proxy);
  const { result } = await client.jobs.get(job);
  assert.equal(new URL(result[0].image_url).origin, used.proxy.otherUrl);
  await download(result[0], "front.png");
  const blob = await result[0].blob();
  assert.equal(blob.type, "image/png");
  assert(Buffer.from(await blob.arrayBuffer()).equals(await pictureBytes("front.png")));
  const fetched = used.proxy.requests.filter(isPicture);
  assert.equal(fetched.length, 2);
  assert(fetched.every(({ headers }) => headers.authorization === undefined));
  assert.deepEqual(JSON.parse(JSON.stringify(result[0])), { ...result[0] }, "its fields are those of the API");
});

test("a store that redirects gets no token either", async () => {
  const { result } = await clientOf(used.proxy).jobs.get(await finishedJob());
  const elsewhere = await startProxy(GATEWAY_URL);
  used.proxy.fault = ({ url }) => ({ status: 307, headers: { Location: elsewhere.url + url } });
  await download(result[0], "front.png");
  assert.equal(elsewhere.requests.length, 1);
  assert.equal(elsewhere.requests[0].headers.authorization, undefined);
  await elsewhere.close();
});

test("an expired link is renewed: of a result, of an event, of the feed", async () => {
  const client = clientOf(used.proxy);
  const job = await finishedJob();
  const { result, latest_event } = await client.jobs.get(job);
  const [draft] = await all(client.jobs.events(job));
  const [item] = await take(1, client.events());
  const links = [result[0], latest_event.artifacts[0], draft.artifacts[0], item.event.artifacts[0]];
  const before = links.map(({ image_url }) => image_url);
  await Promise.all(links.map(expired));
  for (const [index, artifact] of links.entries()) {
    await download(artifact, index < 2 ? "front.png" : "draft.png");
    assert.notEqual(artifact.image_url, before[index]);
  }
  assert.equal((await fetch(await result[0].refresh())).status, 200);
});

test("a download that breaks off is repeated, and shows no half file", async () => {
  const { result } = await clientOf(used.proxy).jobs.get(await finishedJob());
  let breaks = 2;
  used.proxy.fault = (request) => (isPicture(request) && breaks-- > 0 ? { cutAfter: 30 } : undefined);
  await download(result[0], "front.png");
  assert(used.proxy.requests.filter(isPicture).length >= 3);
});

test("a download that cannot succeed leaves no file", async () => {
  const client = clientOf(used.proxy, { silenceTimeoutMs: 300, retryForMs: 0 });
  const { result } = await client.jobs.get(await finishedJob());
  const before = await readdir(folder);
  const file = path.join(folder, "never.png");
  used.proxy.fault = (request) => (isPicture(request) ? { stallAfter: 30 } : undefined);
  await assert.rejects(result[0].download(file), { name: "ConnectionError", code: "TIMED_OUT" });
  used.proxy.fault = (request) => (isPicture(request) ? { status: 403 } : undefined);
  await assert.rejects(result[0].download(file), (error) => error instanceof DownloadError && error.status === 403);
  const reason = new Error("The user has left.");
  await assert.rejects(result[0].download(file, { signal: AbortSignal.abort(reason) }), reason);
  used.proxy.fault = () => undefined;
  await assert.rejects(result[0].download(path.join(folder, "missing", "front.png")), { code: "ENOENT" });
  await deletePictures();
  await assert.rejects(result[0].download(file), { name: "DownloadError", status: 404 });
  assert.deepEqual(await readdir(folder), before);
});
