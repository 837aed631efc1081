// Checks the Temporal contract as a client sees it that knows nothing else of
// the project: names, plain JSON, and what becomes of mistakes. It is run from
// a folder where @temporalio/client is installed.
//
// HEALTHY, STALE and RESTORED are registered connections: one that works, one
// that is stale, one that is stale and that a POST to RESTORE_URL brings back.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { ApplicationFailure, Client, Connection, WorkflowExecutionAlreadyStartedError, WorkflowFailedError } from "@temporalio/client";

const { TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, HEALTHY, STALE, RESTORED, RESTORE_URL } = process.env;
const connection = await Connection.connect({ address: TEMPORAL_ADDRESS });
const client = new Client({ connection, namespace: TEMPORAL_NAMESPACE });

const start = (workflowId, ...args) => client.workflow.start("ReauthWorkflow", { workflowId, taskQueue: "reauth", args });
const open = (id, more) => start(`reauth-${id}`, { connection_id: id, ...more });

// until waits for a status. Whoever calls this gives up after some minutes.
async function until(handle, what, reached) {
  for (;;) {
    const status = await handle.query("status");
    if (reached(status)) return status;
    assert.notEqual(status.phase, "closed", `closed before ${what}: ${JSON.stringify(status)}`);
    await sleep(100);
  }
}

// failsAs asserts that a workflow fails so, and says why in words.
async function failsAs(type, words, handle) {
  const error = await handle.result().then((result) => assert.fail(`no failure, but ${JSON.stringify(result)}`), (e) => e);
  assert.ok(error instanceof WorkflowFailedError, String(error));
  assert.ok(error.cause instanceof ApplicationFailure, String(error.cause));
  assert.equal(error.cause.type, type);
  assert.match(error.cause.message, words);
}

async function mistakes() {
  const ours = new RegExp(`must have the workflow ID reauth-${STALE}`);
  await failsAs("workflow_id_mismatch", ours, await start("my-own-id", { connection_id: STALE }));
  await failsAs("workflow_id_mismatch", ours, await start(`reauth-${STALE}-again`, { connection_id: STALE }));
  await failsAs("invalid_input", /connection_id is missing/, await start("reauth-", {}));
  await failsAs("invalid_input", /reminders\[0\] must be a duration/, await open("reminds", { reminders: ["every day"] }));
  await failsAs("invalid_input", /source must be one of/, await open("sources", { source: "hearsay" }));
  await failsAs("invalid_input", /not the form of/, await start("reauth-shape", "only a text"));
  await failsAs("invalid_input", /connection_id is a JSON number/, await start("reauth-shape", { connection_id: 7 }));
  await failsAs("invalid_input", /connection_id is missing/, await start("reauth-shape"));

  const unknown = await (await open("nobody-registered-this")).result();
  assert.equal(unknown.outcome, "failed");
  assert.equal(unknown.reason, "connection_unknown");
  assert.equal(unknown.connection_id, "nobody-registered-this");

  const works = await (await open(HEALTHY)).result();
  assert.equal(works.outcome, "false_alarm");
}

async function steered() {
  const handle = await open(STALE, { source: "api_error", finch_code: "reauthenticate_user", minutes_to_expire: 1440 });
  await assert.rejects(open(STALE), WorkflowExecutionAlreadyStartedError);

  let status = await until(handle, "the first notice", (s) => s.phase === "awaiting_customer" && s.notices_sent === 1);
  assert.deepEqual(
    Object.keys(status).filter((key) => key === "case_id" || key === "connection_id" || key === "outcome"),
    ["case_id", "connection_id", "outcome"],
  );
  assert.equal(status.case_id, handle.firstExecutionRunId);
  assert.equal(status.connection_id, STALE);
  assert.equal(status.outcome, "");
  assert.equal(status.generation, 1);
  assert.equal(status.last_error, "");
  assert.match(status.session_id, /^[0-9a-f-]{36}$/);
  const utc = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$/;
  assert.match(status.session_expires_at, utc);
  const minutes = (Date.parse(status.session_expires_at) - Date.now()) / 60_000;
  assert.ok(minutes > 1380 && minutes <= 1440, `the session ends in ${minutes} minutes`);

  // What is wrong in a signal's content shows, and changes nothing.
  await handle.signal("snooze", { untill: "2026-12-24T08:00:00Z" });
  status = await until(handle, "last_error", (s) => s.last_error !== "");
  assert.match(status.last_error, /snooze.*until must be a time/);
  await handle.signal("code-received", { code: "" });
  status = await until(handle, "another last_error", (s) => /code-received/.test(s.last_error));
  assert.match(status.last_error, /code is missing/);
  await handle.signal("code-received", { code: "a code", embedded: true });
  await until(handle, "a third last_error", (s) => /printable/.test(s.last_error));
  // What cannot be decoded, and what nobody knows, is left alone.
  await handle.signal("snooze", { until: "tomorrow" });
  await handle.signal("wake-up", {});

  await handle.signal("snooze", { until: "2099-12-24T08:00:00Z" });
  status = await until(handle, "the snooze", (s) => s.snoozed_until);
  assert.equal(status.snoozed_until, "2099-12-24T08:00:00Z");
  await handle.signal("remind-now");
  status = await until(handle, "the reminder", (s) => s.notices_sent === 2);
  assert.equal(status.phase, "awaiting_customer");
  await handle.signal("stop-notices", { reason: "spoke to them" });
  await until(handle, "the end of notices", (s) => s.notices_stopped === true);

  await handle.signal("cancel", { reason: "the customer has left" });
  const result = await handle.result();
  assert.equal(result.outcome, "cancelled");
  assert.equal(result.case_id, handle.firstExecutionRunId);
  assert.equal(result.generation, 1);
  status = await handle.query("status");
  assert.equal(status.phase, "closed");
  assert.equal(status.outcome, "cancelled");

  // After that, a machine's evidence opens no case for a while.
  const suppressed = await (await open(STALE, { source: "api_error", finch_code: "reauthenticate_user" })).result();
  assert.equal(suppressed.suppressed, true);
  assert.equal(suppressed.outcome, "");
  assert.match(suppressed.until, utc);
}

async function restored() {
  const handle = await open(RESTORED, { source: "api_error" });
  await until(handle, "the session", (s) => s.phase === "awaiting_customer");
  assert.ok((await fetch(RESTORE_URL, { method: "POST" })).ok);
  await handle.signal("connection-restored");
  assert.equal((await handle.result()).outcome, "healed");
}

try {
  await Promise.all([mistakes(), steered(), restored()]);
} finally {
  await connection.close();
}
console.log("the contract holds");
