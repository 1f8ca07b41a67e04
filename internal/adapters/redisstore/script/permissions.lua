#!lua flags=no-writes
-- Checks whether the user may run the commands of the script, without running them.
--
-- KEYS  a key of this program
-- reply the names of the commands that the user may not run, or not on this key

local key, lacking = KEYS[1], {}
for _, command in ipairs({
  {'evalsha', '', '1', key},
  {'time'},
  {'hget', key, 'f'},
  {'hmget', key, 'f'},
  {'hset', key, 'f', 'v'},
  {'hdel', key, 'f'},
  {'hscan', key, '0'},
  {'pexpireat', key, '1', 'NX'},
  {'zrange', key, '0', '0'},
  {'zcard', key},
  {'zcount', key, '0', '1'},
  {'zscore', key, 'm'},
  {'zadd', key, '1', 'm'},
  {'zrem', key, 'm'},
  {'zremrangebyrank', key, '0', '0'},
}) do
  if not redis.acl_check_cmd(unpack(command)) then
    lacking[#lacking + 1] = command[1]
  end
end
return lacking
