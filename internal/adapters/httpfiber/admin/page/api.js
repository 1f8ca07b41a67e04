// The requests of the page to the admin plane. Each may need a token.

import { byId, setText } from "./dom.js";

const stored = "velocity-admin-token";

function headers() {
  const token = sessionStorage.getItem(stored);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// ask is fetch with the token. If the token is missing or wrong, it asks the operator for one and tries again.
export async function ask(path, init = {}) {
  for (;;) {
    const response = await fetch(path, { cache: "no-store", ...init, headers: { ...init.headers, ...headers() } });
    if (response.status !== 401) return response;
    await response.body?.cancel();
    await signIn(sessionStorage.getItem(stored) !== null);
  }
}

let signingIn = null;

function signIn(wrong) {
  signingIn ??= new Promise((resolve) => {
    const dialog = byId("sign-in");
    setText(byId("sign-in-note"), wrong ? "That was not the token." : "");
    byId("sign-in-form").addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(stored, byId("token").value);
      byId("token").value = "";
      dialog.close();
      signingIn = null;
      resolve();
    }, { once: true });
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.showModal();
  });
  return signingIn;
}

// json returns the body, or throws an Error with the problem's detail.
export async function json(path, init) {
  const response = await ask(path, init);
  const body = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.detail ?? `HTTP ${response.status}`);
  return body;
}

const clientPath = (resource) => (client) => {
  const path = `/v1/${resource}/${encodeURIComponent(client.policy)}/${encodeURIComponent(client.key)}`;
  return client.source ? `${path}?source=${encodeURIComponent(client.source)}` : path;
};

export const bucketPath = clientPath("buckets");
export const permitPath = clientPath("permits");
export const overridePath = clientPath("overrides");
export const overridesPath = (policy) => `/v1/overrides/${encodeURIComponent(policy)}`;

// follow calls onEvent with each event of /v1/live, for ever, and onLost while there is no connection. It reads the
// stream by itself, since an EventSource cannot send a token.
export async function follow(onEvent, onLost) {
  for (;;) {
    const silence = new AbortController();
    let timer;
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), 4000);
    };
    try {
      const response = await ask("/v1/live", { signal: silence.signal });
      if (response.ok) {
        wait();
        await read(response.body, (event) => {
          wait();
          onEvent(event);
        });
      }
    } catch {
      // onLost reports it below, and the loop tries again
    }
    clearTimeout(timer);
    onLost();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

async function read(body, onEvent) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      if (event.startsWith("data: ")) onEvent(JSON.parse(event.slice(6)));
    }
  }
}
