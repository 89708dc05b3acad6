export { Artifact } from "./artifact.js";
export { Fleet, Jobs, JobsGateway } from "./client.js";
export { ApiError, ConnectionError, DownloadError, JobsGatewayError, JobTimeoutError } from "./errors.js";
export { Listing } from "./listing.js";
export type { JobsGatewayOptions } from "./transport.js";
export type {
  ArtifactResponse,
  FeedEvent,
  FeedEventResponse,
  FeedOptions,
  FleetJob,
  FleetJobPage,
  Job,
  JobEvent,
  JobEventsOptions,
  JobPage,
  JobStatus,
  JobSummary,
  JobType,
  ListFleetJobsOptions,
  ListJobsOptions,
  RequestOptions,
  ValidationError,
  WaitOptions,
} from "./types.js";
export * as webhooks from "./webhooks.js";
