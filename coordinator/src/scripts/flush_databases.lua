-- Flushes the databases ARGV[1] to ARGV[2] but ARGV[3] (-1: no exception). A server may have fewer: then there is nothing in them.
-- Their keys are gone at once; only their memory is freed in the background.
for db = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  if db ~= tonumber(ARGV[3]) then
    local selected = redis.pcall('SELECT', db)
    if type(selected) == 'table' and selected.err then
      if string.find(selected.err, 'out of range', 1, true) or string.find(selected.err, 'cluster mode', 1, true) then return 'OK' end
      return redis.error_reply(selected.err)
    end
    redis.call('FLUSHDB', 'ASYNC')
  end
end
return 'OK'
