#!lua flags=no-writes
-- Asks whether the user may run the commands of take.lua, without running any.
--
-- KEYS  a key of ours
-- reply the names of the commands that the user may not run, or not on this key

local key, lacking = KEYS[1], {}
for _, command in ipairs({
  {'evalsha', '', '1', key},
  {'time'},
  {'hget', key, 'f'},
  {'hmget', key, 'f'},
  {'hset', key, 'f', 'v'},
  {'hdel', key, 'f'},
  {'pexpireat', key, '1', 'NX'},
}) do
  if not redis.acl_check_cmd(unpack(command)) then
    lacking[#lacking + 1] = command[1]
  end
end
return lacking
