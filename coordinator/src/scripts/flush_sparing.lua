-- One step of removing every key of database ARGV[1] but ARGV[3] and following: from cursor ARGV[2] on. Returns the next cursor.
-- A key that is there from the first step to the last is met by one of them; that is what SCAN promises.
if redis.replicate_commands then redis.replicate_commands() end
redis.call('SELECT', ARGV[1])
local spared = {}
for i = 3, #ARGV do spared[ARGV[i]] = true end
local scanned = redis.call('SCAN', ARGV[2], 'COUNT', 1000)
for _, key in ipairs(scanned[2]) do
  if not spared[key] then redis.call('UNLINK', key) end
end
return scanned[1]
