/** The gateway's own names for what it answers, from the types that are generated of its OpenAPI document. */

import type { Artifact } from "./artifact.js";
import type { components, operations } from "./openapi.js";

type Schemas = components["schemas"];

export type ArtifactResponse = Schemas["ArtifactResponse"];
export type FeedEventResponse = Schemas["FeedEvent"];
export type FeedResponse = Schemas["FeedResponse"];
export type FleetJob = Schemas["FleetJobResponse"];
export type FleetJobPage = Schemas["FleetJobListResponse"];
export type JobDetailResponse = Schemas["JobDetailResponse"];
export type JobEventResponse = Schemas["JobEventResponse"];
export type JobEventsResponse = Schemas["JobEventsResponse"];
export type JobPage = Schemas["JobListResponse"];
export type JobStatus = Schemas["JobStatus"];
export type JobSummary = Schemas["JobSummaryResponse"];
export type JobType = Schemas["CtmJobType"];
export type ValidationError = Schemas["ValidationError"];

/** An event of a job. Its pictures can be downloaded. */
export type JobEvent = Omit<JobEventResponse, "artifacts"> & { artifacts: Artifact[] };

/** A job with its final pictures, which are there once its status is `SUCCESS`. */
export type Job = Omit<JobDetailResponse, "result" | "latest_event"> & {
  result: Artifact[];
  latest_event: JobEvent | null;
};

/**
 * An event of the feed. Save `cursor` when the event is handled: `events({ after: cursor })` continues behind it. Where
 * the feed is read in pages, because streams do not work, only the last event of a page has the page's end as its
 * cursor. The others have its beginning, so that a restart may repeat some of a page: drop those by their `id`.
 */
export type FeedEvent = Omit<FeedEventResponse, "event"> & { event: JobEvent; cursor: string };

type Query<Name extends keyof operations> = NonNullable<operations[Name]["parameters"]["query"]>;

export interface RequestOptions {
  /** Aborts the call, which then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** `limit` is the size of a page, 100 by default. */
export interface ListJobsOptions extends Omit<Query<"listJobs">, "cursor">, RequestOptions {}

/** `limit` is the size of a page, 100 by default. */
export interface ListFleetJobsOptions extends Query<"listFleetJobs">, RequestOptions {}

export interface JobEventsOptions extends Query<"listJobEvents">, RequestOptions {}

/** Without `after` the feed begins with the oldest event; `after: "latest"` begins now. */
export interface FeedOptions extends Omit<Query<"listEvents">, "limit">, RequestOptions {}

export interface WaitOptions extends RequestOptions {
  /** Milliseconds until JobTimeoutError is thrown; 10 minutes by default. */
  timeout?: number | undefined;
}
