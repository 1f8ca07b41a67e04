-- Asks Velocity whether a request may pass. haproxy.cfg says when: `http-request lua.velocity`, `http-response lua.velocity_headers`.

-- The listener `velocity_ask` of haproxy.cfg, which has Velocity's servers behind it.
local ask = "abns@velocity_ask"
local timeout_ms = 2000

-- Headers of the client that are not passed on: they belong to its connection, or could describe another request.
local dropped = {
  ["connection"] = true, ["content-length"] = true, ["expect"] = true, ["host"] = true, ["keep-alive"] = true,
  ["proxy-connection"] = true, ["te"] = true, ["trailer"] = true, ["transfer-encoding"] = true, ["upgrade"] = true,
  ["x-original-method"] = true, ["x-original-uri"] = true, ["x-original-url"] = true,
  ["x-forwarded-for"] = true, ["x-forwarded-method"] = true, ["x-forwarded-uri"] = true, ["x-forwarded-host"] = true,
}

-- Headers of Velocity's answer that the client gets when its request passes.
local copied = {
  "x-request-id", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-store", "x-ratelimit-shadow",
  "ratelimit", "ratelimit-policy",
}

-- Headers of a denial that are not passed on.
local connection = { ["connection"] = true, ["content-length"] = true, ["transfer-encoding"] = true, ["keep-alive"] = true }

local function reply(txn, status, headers, body)
  local r = txn:reply({ status = status })
  for name, values in pairs(headers) do
    if not connection[name] then
      for _, value in pairs(values) do r:add_header(name, value) end
    end
  end
  r:set_body(body or "")
  txn:done(r)
end

core.register_action("velocity", { "http-req" }, function(txn)
  local headers = {}
  for name, values in pairs(txn.http:req_get_headers()) do
    if not dropped[name] then headers[name] = values end
  end
  local host = txn.f:req_fhdr("host")
  headers["x-forwarded-for"] = { txn.f:src() }
  headers["x-forwarded-method"] = { txn.f:method() }
  headers["x-forwarded-uri"] = { txn.f:pathq() }
  if host ~= nil and host ~= "" then headers["x-forwarded-host"] = { host } end

  local answer = core.httpclient():get({
    url = "http://velocity/v1/forward-auth", dst = ask, headers = headers, timeout = timeout_ms,
  })
  -- Every answer of Velocity has a request id. Without one, HAProxy made the answer itself: Velocity could not be asked.
  local id = answer and answer.headers and answer.headers["x-request-id"]
  if id == nil then
    reply(txn, 503, { ["retry-after"] = { "1" } }, "")
    return
  end
  if answer.status ~= 200 then
    reply(txn, answer.status, answer.headers, answer.body)
    return
  end
  txn.http:req_set_header("x-request-id", id[0])
  local kept = {}
  for _, name in ipairs(copied) do
    local values = answer.headers[name]
    if values ~= nil then kept[name] = values[0] end
  end
  txn:set_priv(kept)
end)

-- Velocity's headers replace those of the API, on every answer.
core.register_action("velocity_headers", { "http-res" }, function(txn)
  local kept = txn:get_priv() or {}
  txn.http:res_del_header("x-ratelimit-retry-after")
  for _, name in ipairs(copied) do
    txn.http:res_del_header(name)
    if kept[name] ~= nil then txn.http:res_set_header(name, kept[name]) end
  end
end)
