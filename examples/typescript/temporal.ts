// Opens a case, steers it and waits for its result with nothing but a Temporal
// client. This is all that reauth asks of one, in any language:
//
//   workflow type  ReauthWorkflow
//   workflow ID    reauth-<connection_id>, and no other
//   task queue     reauth
//   input          {"connection_id": "…"} at the least, as plain JSON
//   query          status
//   signals        snooze, remind-now, stop-notices, cancel, connection-restored
//
//   npm ci && npm run temporal -- <connection_id>
//
// TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE say where Temporal is.
//
// Authorization codes are better handed in over HTTP than with the signal
// code-received: what this client writes to Temporal in plain text stays there
// in plain text.
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Connection, WorkflowExecutionAlreadyStartedError } from "@temporalio/client";

/** What the query `status` answers. Times are RFC 3339 in UTC. */
interface Status {
  case_id: string;
  connection_id: string;
  phase: "confirming" | "awaiting_customer" | "redeeming" | "verifying" | "blocked" | "closed";
  outcome: string;
  session_id: string;
  session_expires_at: string | null;
  next_notice_at: string | null;
  snoozed_until?: string | null;
  notices_sent: number;
  generation: number;
  last_error: string;
}

/** What the workflow returns. */
interface Result {
  outcome: "" | "recovered" | "healed" | "false_alarm" | "expired" | "cancelled" | "failed";
  case_id: string;
  connection_id: string;
  generation: number;
  reason?: string;
  suppressed?: boolean;
  token_superseded?: boolean;
}

/** The case of a connection: opened now, or the one that is open already. */
async function openCase(client: Client, connectionID: string) {
  const workflowId = `reauth-${connectionID}`;
  try {
    await client.workflow.start("ReauthWorkflow", {
      workflowId,
      taskQueue: "reauth",
      args: [{ connection_id: connectionID, source: "api_error", finch_code: "reauthenticate_user" }],
    });
    console.log(`opened ${workflowId}`);
  } catch (error) {
    // At most one case of a connection is open, so this is no mistake.
    if (!(error instanceof WorkflowExecutionAlreadyStartedError)) throw error;
    console.log(`joined ${workflowId}`);
  }
  return client.workflow.getHandle<() => Promise<Result>>(workflowId);
}

const connectionID = process.argv[2];
if (!connectionID) throw new Error("which connection? npm run temporal -- <connection_id>");

const connection = await Connection.connect({ address: process.env.TEMPORAL_ADDRESS || "localhost:7233" });
try {
  const client = new Client({ connection, namespace: process.env.TEMPORAL_NAMESPACE || "default" });
  const handle = await openCase(client, connectionID);

  // What holds of the case is asked for by query. Each costs a little, so ask
  // seldom; GET /v1/connections/{id}/reauth asks the database instead.
  const until = async (reached: (status: Status) => boolean): Promise<Status> => {
    for (;;) {
      const status = await handle.query<Status>("status");
      if (reached(status) || status.phase === "closed") return status;
      await sleep(500);
    }
  };

  let status = await until((s) => s.phase === "awaiting_customer" && s.notices_sent > 0);
  console.log(`phase ${status.phase}, session until ${status.session_expires_at}, notices ${status.notices_sent}`);

  if (status.phase !== "closed") {
    // Somebody has spoken to the customer: no reminders before Monday, say.
    const monday = new Date(Date.now() + 3 * 24 * 3600 * 1000);
    monday.setUTCMilliseconds(0);
    await handle.signal("snooze", { until: monday.toISOString() });
    status = await until((s) => Boolean(s.snoozed_until));
    console.log(`snoozed until ${status.snoozed_until}`);
  }

  console.log("waiting for the customer");
  const result = await handle.result();
  console.log(`result ${JSON.stringify(result)}`);
} finally {
  await connection.close();
}
