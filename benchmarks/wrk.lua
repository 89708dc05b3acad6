-- Cycles through the requests in the file named after "--": lines of a path and, where there is one, an ETag.
local requests, count, at = {}, 0, 0

function init(args)
  local headers = {["Authorization"] = "Bearer " .. args[2], ["Host"] = wrk.host .. ":" .. wrk.port}
  for line in io.lines(args[1]) do
    local path, etag = line:match("^(%S+)%s*(.*)$")
    headers["If-None-Match"] = etag ~= "" and etag or nil
    count = count + 1
    requests[count] = wrk.format("GET", path, headers)
  end
end

function request()
  at = at % count + 1
  return requests[at]
end

function done(summary, latency, _)
  local failed = summary.errors.status + summary.errors.read + summary.errors.write + summary.errors.connect
  io.write(string.format(
    '\n{"requests": %d, "bytes": %d, "microseconds": %d, "failed": %d, "p50": %f, "p99": %f}\n',
    summary.requests, summary.bytes, summary.duration, failed, latency:percentile(50), latency:percentile(99)
  ))
end
