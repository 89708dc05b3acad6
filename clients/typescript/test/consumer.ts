// Type-checked in an empty project in which the packed client is installed. It is never run.

import {
  ApiError,
  type Artifact,
  type FeedEvent,
  type FleetJob,
  type Job,
  type JobEvent,
  JobsGateway,
  type JobStatus,
  type JobSummary,
  JobTimeoutError,
} from "@jobs-gateway/client";

const gateway = new JobsGateway({ baseUrl: "https://jobs.example.com", token: async () => "session token" });
const { signal } = new AbortController();

for await (const job of gateway.jobs.list({ job_type: ["MODEL_GENERATOR"], status: "SUCCESS", limit: 50, signal })) {
  job satisfies JobSummary;
}
for await (const event of gateway.jobs.events("01JA", { since: 3, signal })) {
  event satisfies JobEvent;
  for (const artifact of event.artifacts) await artifact.download("front.png", { signal });
}
for await (const event of gateway.events({ after: "latest", event_type: ["succeeded"] })) {
  event satisfies FeedEvent;
  event.cursor satisfies string;
}
for await (const page of gateway.fleet.list({ status: "failed" }).pages()) {
  page.status_counts["failed"] satisfies number | undefined;
  page.items satisfies FleetJob[];
}
try {
  const job: Job = await gateway.jobs.wait("01JA", { timeout: 60_000 });
  job.status satisfies JobStatus;
  const picture: Artifact | undefined = job.result[0];
  (await picture?.blob())?.type satisfies string | undefined;
} catch (error) {
  if (error instanceof JobTimeoutError) error.job satisfies Job | undefined;
  if (error instanceof ApiError) error.requestId satisfies string | undefined;
}

// @ts-expect-error: no such status
gateway.jobs.list({ status: "DONE" });
// @ts-expect-error: pages are the client's
gateway.jobs.list({ cursor: "x" });
// @ts-expect-error: no address
new JobsGateway({ token: "x" });
