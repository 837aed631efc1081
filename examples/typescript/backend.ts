// What a backend does about a stale connection, with Finch's own client and
// plain HTTP: take the current token from reauth, make the call, and when Finch
// says that the customer must log in again, report that, wait, and go on with
// the new token.
//
//   npm ci && npm run backend -- <connection_id>
//
// REAUTH_URL and REAUTH_API_KEY say where reauth is; the key needs the scopes
// reports:write and tokens:read. FINCH_BASE_URL is read by Finch's client, and
// is needed only for another Finch than the real one.
import { setTimeout as sleep } from "node:timers/promises";
import Finch from "@tryfinch/finch-api";

/** The current token of a connection: GET /v1/connections/{id}/token. */
interface Token {
  access_token: string;
  generation: number;
  fingerprint: string;
}

/** What became of a report: POST /v1/connections/{id}/reauth. */
interface Report {
  case_id?: string;
  token_superseded?: boolean;
  suppressed?: boolean;
  reason?: string;
  until?: string;
}

/** The newest case of a connection: GET /v1/connections/{id}/reauth. */
interface Case {
  case_id: string;
  phase: string;
  outcome: "" | "recovered" | "healed" | "false_alarm" | "expired" | "cancelled" | "failed";
}

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is missing`);
  return value;
}

/** An answer of reauth that is not a success: an RFC 9457 problem. */
class Refused extends Error {
  constructor(what: string, readonly status: number, problem: string) {
    super(`${what} answers ${status}: ${problem}`);
  }
}

async function reauth<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(setting("REAUTH_URL") + path, {
    method,
    headers: { Authorization: `Bearer ${setting("REAUTH_API_KEY")}`, "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  if (!response.ok) throw new Refused(`${method} ${path}`, response.status, await response.text());
  return (await response.json()) as T;
}

/** The newest case of a connection, or nothing where it has had none. */
async function newestCase(path: string): Promise<Case | undefined> {
  try {
    return await reauth<Case>("GET", `${path}/reauth`);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return undefined;
    throw error;
  }
}

/** Whether the customer must log in again. Other errors are other people's work. */
function isStale(error: unknown): boolean {
  if (!(error instanceof Finch.APIError)) return false;
  const body = error.error as { finch_code?: string } | undefined;
  return error.status === 401 && body?.finch_code === "reauthenticate_user";
}

/**
 * Makes a call with the current token of a connection. If the connection is
 * stale, it waits until the customer has brought it back, which can take days:
 * in a real backend, put the job aside and let the webhook start it again.
 */
async function withFinch<T>(connectionID: string, call: (finch: Finch) => Promise<T>): Promise<T> {
  const path = `/v1/connections/${encodeURIComponent(connectionID)}`;
  for (;;) {
    const token = await reauth<Token>("GET", `${path}/token`);
    try {
      return await call(new Finch({ accessToken: token.access_token, clientID: null, clientSecret: null }));
    } catch (error) {
      if (!isStale(error)) throw error;
    }
    console.log(`generation ${token.generation}: 401 reauthenticate_user`);

    // Report it as often as you like: any number of reports make one case. The
    // fingerprint says which token failed, so that a call that was still under
    // way when the new token came does not open another case.
    const report = await reauth<Report>("POST", `${path}/reauth`, {
      source: "api_error",
      finch_code: "reauthenticate_user",
      token_fingerprint: token.fingerprint,
    });
    if (report.token_superseded) continue; // there is a newer one already
    if (report.suppressed) throw new Error(`no case opens until ${report.until}: ${report.reason}`);
    console.log(`reported: case ${report.case_id}`);

    let ended: Case | undefined;
    while (!ended) {
      await sleep(500);
      const newest = await newestCase(path); // which for a moment may still be the last one
      if (newest && newest.case_id === report.case_id && newest.outcome) ended = newest;
    }
    console.log(`the case ended: ${ended.outcome}`);
    if (!["recovered", "healed", "false_alarm"].includes(ended.outcome)) {
      throw new Error(`the connection stays stale: ${ended.outcome}`);
    }
  }
}

const connectionID = process.argv[2];
if (!connectionID) throw new Error("which connection? npm run backend -- <connection_id>");
const company = await withFinch(connectionID, (finch) => finch.hris.company.retrieve());
console.log(`the call works: ${company.legal_name}`);
