// What the gateway's own signer has signed is in the environment, so that both agree.
import assert from "node:assert/strict";
import { test } from "node:test";

import { webhooks } from "@jobs-gateway/client";

const { secret, headers, body, other } = JSON.parse(process.env.SIGNED);
const refused = { name: "WebhookVerificationError", code: "WEBHOOK_NOT_VERIFIED" };

test("a webhook of the gateway is read", async () => {
  for (const given of [headers, new Headers(headers)]) {
    for (const bytes of [body, new TextEncoder().encode(body)]) {
      const webhook = await webhooks.unwrap(bytes, given, secret);
      assert.equal(webhook.id, headers["webhook-id"]);
      assert.equal(webhook.type, "job.succeeded");
      assert.equal(webhook.event.event.message, "Done ✓");
      assert.deepEqual(webhook.result, []);
    }
  }
});

test("after a rotation either secret verifies it", async () => {
  const both = { ...headers, "webhook-signature": `v1,bm8= ${headers["webhook-signature"]}` };
  assert.equal((await webhooks.unwrap(body, both, secret)).type, "job.succeeded");
});

for (const [what, given, text, key] of [
  ["another body", headers, body + " ", secret],
  ["another secret", headers, body, other],
  ["another id", { ...headers, "webhook-id": "x" }, body, secret],
  ["another time", { ...headers, "webhook-timestamp": String(Number(headers["webhook-timestamp"]) + 1) }, body, secret],
  ["an old time", { ...headers, "webhook-timestamp": "1776254409" }, body, secret],
  ["no time", { ...headers, "webhook-timestamp": "now" }, body, secret],
  ["no signature", { ...headers, "webhook-signature": "" }, body, secret],
  ["a signature of another version", { ...headers, "webhook-signature": headers["webhook-signature"].replace("v1,", "v2,") }, body, secret],
  ["a signature that is no base64", { ...headers, "webhook-signature": "v1,*" }, body, secret],
  ["a missing header", { "webhook-id": "x" }, body, secret],
]) {
  test(`${what} is refused`, () => assert.rejects(webhooks.unwrap(text, given, key), refused));
}
