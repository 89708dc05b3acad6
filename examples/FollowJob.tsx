// A job with its stages and pictures as they come. `token` is that of the page's user: a page's code has none.

import { type Job, type JobEvent, JobsGateway } from "@jobs-gateway/client";
import { useEffect, useState } from "react";

export function FollowJob({ baseUrl, token, id }: { baseUrl: string; token: string; id: string }) {
  const [events, setEvents] = useState<JobEvent[]>([]);
  const [job, setJob] = useState<Job>();
  const [error, setError] = useState<string>();

  useEffect(() => {
    const stop = new AbortController();
    const { signal } = stop;
    async function follow() {
      const { jobs } = new JobsGateway({ baseUrl, token });
      setEvents([]);
      setJob(undefined);
      for await (const event of jobs.events(id, { signal })) setEvents((before) => [...before, event]);
      setJob(await jobs.wait(id, { signal }));
    }
    follow().catch((reason) => signal.aborted || setError(String(reason)));
    return () => stop.abort();
  }, [baseUrl, token, id]);

  return (
    <section>
      <h2>{error ?? job?.status ?? "In progress"}</h2>
      <ol>{events.map((event) => <li key={event.seq}>{event.stage ?? event.event_type}: {event.message}</li>)}</ol>
      {job?.result.map((picture) => (
        <img key={picture.image_url} src={picture.image_url} alt={picture.label ?? ""} />
      ))}
    </section>
  );
}
