// The TypeScript client and bare fetch in turn, on the same gateway. Prints, as JSON, for each task the median ratio of
// the client's time to that of fetch, and of its CPU time. benchmarks/typescript_client.py runs it.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";

import { JobsGateway } from "../clients/typescript/dist/index.js";

const { GATEWAY_URL: baseUrl, JOBS_GATEWAY_TOKEN: token, JOB: job } = process.env;
const ROUNDS = Number(process.env.ROUNDS);
const gateway = new JobsGateway({ baseUrl, token });
const headers = { Authorization: `Bearer ${token}` };
const folder = await mkdtemp(path.join(tmpdir(), "pictures-"));
const { result: pictures } = await gateway.jobs.get(job);

/** Each task as the client does it, and as a caller writes it with fetch. Both return how much they have done. */
const TASKS = {
  async list(isClient) {
    let count = 0;
    if (isClient) {
      for await (const _ of gateway.jobs.list({ limit: 100 })) count++;
      return count;
    }
    let url = `${baseUrl}/v1/jobs?limit=100`;
    while (url) {
      const response = await fetch(url, { headers });
      for (const _ of (await response.json()).jobs) count++;
      url = /<(.*)>/.exec(response.headers.get("Link") ?? "")?.[1];
    }
    return count;
  },

  async follow(isClient) {
    let count = 0;
    if (isClient) {
      for await (const _ of gateway.jobs.events(job)) count++;
      return count;
    }
    const stream = { headers: { ...headers, Accept: "text/event-stream" } };
    const response = await fetch(`${baseUrl}/v1/jobs/${job}/events`, stream);
    let text = "";
    for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
        const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: ?(.*)/s)));
        if (fields.event !== "end" && fields.data && JSON.parse(fields.data)) count++;
      }
    }
    return count;
  },

  async download(isClient) {
    for (const [index, picture] of pictures.entries()) {
      const file = path.join(folder, `${index}.png`);
      if (isClient) await picture.download(file);
      else await writeFile(file, Buffer.from(await (await fetch(picture.image_url)).arrayBuffer()));
    }
    return pictures.length;
  },
};

async function measured(task, isClient) {
  const cpu = process.cpuUsage();
  const began = performance.now();
  const count = await task(isClient);
  const ms = performance.now() - began;
  const { user, system } = process.cpuUsage(cpu);
  return { count, ms, cpu: user + system };
}

function median(values) {
  return values.sort((one, other) => one - other)[values.length >> 1];
}

const ratios = {};
for (const [name, task] of Object.entries(TASKS)) {
  await task(true);
  await task(false);
  const rounds = [];
  for (let round = 0; round < ROUNDS; round++) {
    // Which one is first changes, because the second one finds warm caches.
    const order = round % 2 ? [true, false] : [false, true];
    const one = await measured(task, order[0]);
    const other = await measured(task, order[1]);
    const [client, bare] = order[0] ? [one, other] : [other, one];
    if (client.count !== bare.count || client.count === 0) throw new Error(`${name}: ${client.count}, ${bare.count}`);
    rounds.push({ time: client.ms / bare.ms, cpu: client.cpu / bare.cpu, ms: bare.ms });
  }
  ratios[name] = Object.fromEntries(
    ["time", "cpu", "ms"].map((of) => [of, Number(median(rounds.map((round) => round[of])).toFixed(2))]),
  );
}
await rm(folder, { recursive: true });
console.log(JSON.stringify(ratios));
