// Prints the events of a job until it is over, then downloads its pictures: node follow-job.mjs JOB_ID [FOLDER]
// JOBS_GATEWAY_TOKEN is the token, JOBS_GATEWAY_URL the gateway's address.

import path from "node:path";

import { JobsGateway } from "@jobs-gateway/client";

const [id, folder = "."] = process.argv.slice(2);
const gateway = new JobsGateway({ baseUrl: process.env.JOBS_GATEWAY_URL ?? "http://127.0.0.1:8000" });

for await (const event of gateway.jobs.events(id)) {
  console.log(event.seq, event.event_type, event.message);
}
const job = await gateway.jobs.wait(id);
for (const picture of job.result) {
  const file = path.join(folder, path.basename(new URL(picture.image_url).pathname));
  await picture.download(file);
  console.log(job.status, file);
}
