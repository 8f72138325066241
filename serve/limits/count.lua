-- Counts one request, or hands in what was used since, for all subjects at once. Runs inside Redis, whose clock counts.
--
-- KEYS  per subject: its buckets and today's tokens (a hash); its requests in flight, by worker (a hash)
-- ARGV  worker, seconds that a worker's counts outlive its last word, "ask" or "tell", tokens;
--       per subject: requests a minute, tokens a minute, tokens a day, requests at once (0: no limit);
--       requests of this worker that have ended, tokens to charge
-- returns the time; "" or the limit that refuses, the number of its subject, the seconds to wait;
--       per subject: the times at which its two buckets will be full
--
-- The arithmetic of a bucket is that of serve/limits/rate.py.

local MINUTE, MAX_DEBT, DAY, EPSILON = 60, 600, 86400, 1e-6
local time = redis.call("TIME")
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local today = math.floor(now / DAY)
local worker, ttl, ask, tokens = ARGV[1], tonumber(ARGV[2]), ARGV[3] == "ask", tonumber(ARGV[4])

local function sound(tat, debt)
  if tat == nil or not (tat > now) then return now end
  if tat > now + 2 * MINUTE + debt then return now + MINUTE end
  return math.min(tat, now + MINUTE + debt)
end

local function bounded(tat) return math.min(math.max(tat, now), now + MINUTE + MAX_DEBT) end

local function early(tat, limit, cost)
  local wait = math.min(tat + cost * MINUTE / limit, tat + MINUTE) - now - MINUTE
  return wait > EPSILON and wait or 0
end

local function text(number) return string.format("%.6f", number) end

-- Of several limits that refuse the one that does so for longest: a client is told when to come again.
local rows, refusal, who, wait = {}, "", 0, 0
local function refuse(limit, i, seconds)
  if seconds > wait then refusal, who, wait = limit, i, seconds end
end

for i = 1, #KEYS / 2 do
  local at = 4 + (i - 1) * 6
  local row = {rpm = tonumber(ARGV[at + 1]), tpm = tonumber(ARGV[at + 2]), budget = tonumber(ARGV[at + 3])}
  local concurrent, ended, charge = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local kept = redis.call("HMGET", KEYS[2 * i - 1], "requests", "tokens", "today", "spent")
  row.requests, row.tokens = sound(tonumber(kept[1]), 0), sound(tonumber(kept[2]), MAX_DEBT)
  row.spent = (tonumber(kept[3]) == today and tonumber(kept[4]) or 0) + charge
  if row.tpm > 0 then row.tokens = bounded(row.tokens + charge * MINUTE / row.tpm) end
  -- Those in flight: a worker that has not spoken for `ttl` seconds is dead, and with it its requests.
  local all, flying = 0, redis.call("HGETALL", KEYS[2 * i])
  row.mine = 0
  for j = 1, #flying, 2 do
    local count, expires = string.match(flying[j + 1], "^(%d+) (%d+)$")
    if count == nil or tonumber(expires) < now then
      redis.call("HDEL", KEYS[2 * i], flying[j])
    elseif flying[j] == worker then
      row.mine = math.max(0, tonumber(count) - ended)
    else
      all = all + tonumber(count)
    end
  end
  if ask then
    if concurrent > 0 and all + row.mine >= concurrent then refuse("concurrent", i, 1) end
    if row.rpm > 0 then refuse("requests_per_minute", i, early(row.requests, row.rpm, 1)) end
    if row.tpm > 0 then refuse("tokens_per_minute", i, early(row.tokens, row.tpm, tokens)) end
    if row.budget > 0 and row.spent + tokens > row.budget then refuse("tokens_per_day", i, DAY - now % DAY) end
  end
  rows[i] = row
end

local out = {text(now), refusal, who, text(wait)}
for i, row in ipairs(rows) do
  if ask and refusal == "" then
    if row.rpm > 0 then row.requests = bounded(row.requests + MINUTE / row.rpm) end
    if row.tpm > 0 then row.tokens = bounded(row.tokens + tokens * MINUTE / row.tpm) end
    row.spent, row.mine = row.spent + tokens, row.mine + 1
  end
  redis.call("HSET", KEYS[2 * i - 1], "requests", text(row.requests), "tokens", text(row.tokens), "today", today,
    "spent", math.max(0, row.spent))
  redis.call("EXPIRE", KEYS[2 * i - 1], 2 * DAY)
  if row.mine > 0 then
    redis.call("HSET", KEYS[2 * i], worker, string.format("%d %d", row.mine, math.ceil(now + ttl)))
    redis.call("EXPIRE", KEYS[2 * i], math.ceil(2 * ttl))
  else
    redis.call("HDEL", KEYS[2 * i], worker)
  end
  out[#out + 1], out[#out + 2] = text(row.requests), text(row.tokens)
end
return out
