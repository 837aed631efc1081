// Runs Finch's own client against the simulated Finch, so that the two agree
// on what Finch's wire looks like. FINCH_URL is the simulator; WEBHOOKS_URL
// lists, as JSON, the webhooks that it has sent: [{headers, body}].
import assert from "node:assert/strict";
import Finch from "@tryfinch/finch-api";

const { FINCH_URL, FINCH_CLIENT_ID, FINCH_CLIENT_SECRET, FINCH_WEBHOOK_SECRET, REDIRECT_URI, WEBHOOKS_URL } = process.env;

const options = { baseURL: FINCH_URL, maxRetries: 0 };
const app = new Finch({
  ...options,
  clientID: FINCH_CLIENT_ID,
  clientSecret: FINCH_CLIENT_SECRET,
  webhookSecret: FINCH_WEBHOOK_SECRET,
  accessToken: null,
});
const withToken = (accessToken) => new Finch({ ...options, accessToken, clientID: null, clientSecret: null });
const uuid = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

async function sim(method, path, body) {
  const response = await fetch(FINCH_URL + path, {
    method,
    headers: { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.json();
}

// press presses a button of the Connect page and returns where it leads.
async function press(connectURL, action) {
  const url = new URL(connectURL);
  const page = await fetch(url);
  assert.equal(page.status, 200);
  assert.match(await page.text(), new RegExp(`id="${action}"`));
  const response = await fetch(new URL("/authorize", url), {
    method: "POST",
    redirect: "manual",
    body: new URLSearchParams({ session: url.searchParams.get("session"), state: "a state", action }),
  });
  assert.equal(response.status, 302);
  const back = new URL(response.headers.get("location"));
  assert.equal(back.origin + back.pathname, REDIRECT_URI);
  assert.equal(back.searchParams.get("state"), "a state");
  return back.searchParams.get("code");
}

// fails asserts that a call is refused with one of the client's typed errors.
async function fails(promise, type, status, fields) {
  const error = await promise.then(() => assert.fail(`no ${type.name}`), (e) => e);
  assert.ok(error instanceof type, `${error}, not ${type.name}`);
  assert.equal(error.constructor, type);
  assert.equal(error.status, status);
  assert.match(error.headers.get("finch-request-id"), uuid);
  for (const [name, value] of Object.entries(fields)) assert.deepEqual(error.error[name], value, name);
  return error;
}

const staleFields = { code: 401, name: "authentication_error", finch_code: "reauthenticate_user", message: "Please reauthenticate user" };

async function newCustomer() {
  const params = {
    customer_id: "node-acme",
    customer_name: "Acme",
    products: ["company", "directory"],
    redirect_uri: REDIRECT_URI,
    integration: { provider: "bamboo_hr", auth_method: "credential" },
    minutes_to_expire: 60,
    sandbox: "finch",
  };
  const session = await app.connect.sessions.new(params);
  assert.match(session.session_id, uuid);
  assert.equal(new URL(session.connect_url).searchParams.get("session"), session.session_id);
  assert.equal((await app.connect.sessions.new(params)).session_id, session.session_id);

  const code = await press(session.connect_url, "authorize");
  const token = await app.accessTokens.create({ code, redirect_uri: REDIRECT_URI });
  assert.equal(token.token_type, "bearer");
  assert.equal(token.client_type, "sandbox");
  assert.equal(token.connection_type, "finch");
  assert.equal(token.provider_id, "bamboo_hr");
  assert.equal(token.customer_id, "node-acme");
  assert.deepEqual(token.products, params.products);
  assert.match(token.connection_id, uuid);
  assert.match(token.entity_ids[0], uuid);

  await fails(app.connect.sessions.new(params), Finch.BadRequestError, 400, {
    code: 400,
    name: "bad_request",
    finch_code: "connection_already_exists",
    context: { customer_id: "node-acme", connection_id: token.connection_id },
  });
  return token;
}

async function data(token) {
  const customer = withToken(token.access_token);
  const introspection = await customer.account.introspect();
  assert.match(introspection.id, uuid);
  assert.equal(introspection.client_id, FINCH_CLIENT_ID);
  assert.equal(introspection.connection_id, token.connection_id);
  assert.equal(introspection.connection_status.status, "connected");
  assert.ok(!Number.isNaN(Date.parse(introspection.connection_status.last_successful_sync)));
  assert.equal(introspection.authentication_methods[0].type, "credential");
  assert.equal(introspection.customer_email, null);
  assert.equal(introspection.manual, false);

  const company = await customer.hris.company.retrieve();
  assert.equal(company.id, introspection.company_id);
  assert.equal(company.legal_name, "Acme");

  const everybody = [];
  for await (const person of customer.hris.directory.list({ limit: 7 })) everybody.push(person.id);
  assert.equal(everybody.length, 20);
  assert.equal(new Set(everybody).size, 20);
}

async function reauthentication(old) {
  const customer = withToken(old.access_token);
  await customer.sandbox.connections.accounts.update({ connection_status: "reauth" });
  await fails(customer.hris.company.retrieve(), Finch.AuthenticationError, 401, staleFields);
  await fails(customer.hris.directory.list(), Finch.AuthenticationError, 401, staleFields);
  assert.equal((await customer.account.introspect()).connection_status.status, "reauth");

  await sim("PUT", "/sim/knobs", { introspect_unauthorized: true });
  await fails(customer.account.introspect(), Finch.AuthenticationError, 401, staleFields);
  await sim("PUT", "/sim/knobs", { introspect_unauthorized: false });

  const session = await app.connect.sessions.reauthenticate({
    connection_id: old.connection_id,
    redirect_uri: REDIRECT_URI,
    minutes_to_expire: 43_200,
    products: ["company", "directory", "individual"],
  });
  assert.match(session.session_id, uuid);
  assert.equal(await press(session.connect_url, "leave"), null);
  assert.equal((await customer.account.introspect()).connection_status.status, "reauth");

  const code = await press(session.connect_url, "authorize");
  assert.equal((await customer.account.introspect()).connection_status.status, "connected");
  const token = await app.accessTokens.create({ code, redirect_uri: REDIRECT_URI });
  assert.notEqual(token.access_token, old.access_token);
  assert.equal(token.connection_id, old.connection_id);
  assert.deepEqual(token.products, ["company", "directory", "individual"]);
  assert.equal((await withToken(token.access_token).hris.company.retrieve()).legal_name, "Acme");
  await fails(app.accessTokens.create({ code, redirect_uri: REDIRECT_URI }), Finch.BadRequestError, 400, { name: "invalid_grant_error" });
  return token;
}

async function refusals(token) {
  await fails(app.connect.sessions.reauthenticate({ connection_id: "nobody" }), Finch.BadRequestError, 400, {
    code: 400,
    finch_code: "invalid_request",
    message: "Connection not found",
    name: "bad_request",
  });
  await fails(
    app.connect.sessions.reauthenticate({ connection_id: token.connection_id, redirect_uri: "https://elsewhere.example/" }),
    Finch.BadRequestError, 400, { finch_code: "invalid_request" },
  );
  const stranger = new Finch({ ...options, clientID: FINCH_CLIENT_ID, clientSecret: "wrong", accessToken: null });
  await fails(stranger.connect.sessions.reauthenticate({ connection_id: token.connection_id }), Finch.AuthenticationError, 401, {
    error: "Invalid client: Unable to validate credentials",
  });
  await fails(stranger.accessTokens.create({ code: "x" }), Finch.AuthenticationError, 401, { name: "invalid_client_error" });
  await fails(withToken("nonsense").account.introspect(), Finch.AuthenticationError, 401, { name: "invalid_token_error" });

  const customer = withToken(token.access_token);
  const endpoint = "GET /employer/company";
  await sim("PUT", "/sim/knobs", { faults: [
    { endpoint, kind: "rate_limit", retry_after: "7s" }, { endpoint, kind: "server_error" }, { endpoint, kind: "drop", times: 2 },
  ] });
  const limited = await fails(customer.hris.company.retrieve(), Finch.RateLimitError, 429, {
    statusCode: 429, status: 429, code: 429, name: "rate_limit_exceeded_error", finch_code: "finch_application_rl",
  });
  assert.equal(limited.headers.get("retry-after"), "7");
  await fails(customer.hris.company.retrieve(), Finch.InternalServerError, 500, { name: "server_error" });
  await assert.rejects(customer.hris.company.retrieve(), Finch.APIConnectionError);
  await sim("PUT", "/sim/knobs", { faults: [] });
  await customer.hris.company.retrieve();
}

async function sandbox() {
  const made = await app.sandbox.connections.create({ provider_id: "gusto", employee_size: 3, products: ["company", "directory"] });
  assert.equal(made.provider_id, "gusto");
  assert.equal(made.authentication_type, "credential");
  assert.match(made.entity_id, uuid);
  const customer = withToken(made.access_token);
  assert.equal((await customer.account.introspect()).connection_id, made.connection_id);
  assert.equal((await customer.hris.directory.list()).individuals.length, 3);
  for (const connection_status of ["reauth", "pending", "error_permissions", "connected"]) {
    const updated = await customer.sandbox.connections.accounts.update({ connection_status });
    assert.equal(updated.connection_id, made.connection_id);
    assert.equal((await customer.account.introspect()).connection_status.status, connection_status);
  }
  await fails(customer.sandbox.connections.accounts.update({ connection_status: "error_reauth" }), Finch.BadRequestError, 400, {});
  return made;
}

async function webhooks(token, status) {
  let found;
  for (let i = 0; i < 1000 && !found; i++) {
    const sent = await (await fetch(WEBHOOKS_URL)).json();
    for (const { headers, body } of sent) {
      app.webhooks.verifySignature(body, headers);
      const event = app.webhooks.unwrap(body, headers);
      assert.equal(event.event_type, "account.updated");
      assert.match(event.company_id, uuid);
      if (event.connection_id === token.connection_id && event.data.status === status) found = { headers, body };
    }
    if (!found) await new Promise((resolve) => setTimeout(resolve, 10));
  }
  assert.ok(found, `no webhook said ${status}`);
  assert.throws(() => app.webhooks.unwrap(found.body + " ", found.headers));
  assert.throws(() => app.webhooks.verifySignature(found.body, found.headers, Buffer.from("another").toString("base64")));
}

async function disconnect(token) {
  const customer = withToken(token.access_token);
  assert.deepEqual(await customer.account.disconnect(), { status: "success" });
  await fails(customer.account.introspect(), Finch.AuthenticationError, 401, { message: "Unauthorized" });
  await fails(app.connect.sessions.reauthenticate({ connection_id: token.connection_id }), Finch.BadRequestError, 400, {
    message: "Connection not found",
  });
}

const first = await newCustomer();
await data(first);
const second = await reauthentication(first);
await refusals(second);
const made = await sandbox();
for (const status of ["reauth", "connected"]) await webhooks(second, status);
await disconnect(second);
await webhooks(second, "disconnected");
await disconnect(made);
console.log("Finch's own client agrees with the simulated Finch.");
