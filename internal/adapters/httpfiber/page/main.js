import { follow, json } from "./api.js";
import * as bucket from "./bucket.js";
import { Chart } from "./chart.js";
import { byId, options, setText } from "./dom.js";
import * as format from "./format.js";
import { History } from "./history.js";
import * as tables from "./tables.js";

const states = {
  ready: "Ready",
  degraded: "Degraded: a shard is down",
  unavailable: "Unavailable: no shard answers",
  draining: "Draining: the service is stopping",
  lost: "No connection",
};

const history = new History();
const chart = new Chart(byId("chart"));
let known = []; // the policies in force

function setState(state) {
  byId("state").dataset.state = state;
  setText(byId("state").querySelector(".text"), states[state] ?? state);
}

async function learnPolicies() {
  try {
    known = (await json("/v1/policies")).policies ?? [];
  } catch {
    // what was known stays
  }
  setTimeout(learnPolicies, 5000);
}

function show() {
  if (!history.last) return;
  setText(byId("version"), history.last.version);
  setText(byId("allowed-rate"), format.rate(history.rate("allowed")));
  setText(byId("denied-rate"), format.rate(history.rate("denied")));
  for (const [id, q] of [["p50", 0.5], ["p99", 0.99], ["p999", 0.999]]) {
    setText(byId(id), format.duration(history.quantile(q)));
  }
  const fallback = history.fallbackRate();
  setText(byId("fallback-rate"), format.rate(fallback));
  byId("fallback-tile").classList.toggle("alarm", fallback > 0);

  const names = [...new Set([...known.map((p) => p.name), ...history.policies()])];
  options(byId("chart-policy"), ["", ...names], (name) => name || "All");
  options(byId("policy-names"), names);
  chart.show(history, byId("chart-policy").value);
  tables.policies(history, known);
  tables.shards(history);
  tables.top(history, bucket.inspect);
}

for (const id of ["chart-policy", "top-policy", "top-kind"]) byId(id).addEventListener("change", show);
bucket.start();
learnPolicies();
follow((event) => {
  history.add(event);
  setState(event.state);
  show();
}, () => setState("lost"));
