-- BeachDB's protocols for Wireshark and tshark. Layouts: client.md, peer.md, batch.md, errors.md.
--
--   tshark -X lua_script:proto-spec/beachdb.lua -i lo -f 'tcp port 7400' -O beachdb
--   tshark -X lua_script:proto-spec/beachdb.lua -i lo -f 'tcp portrange 7400-7401' -Y 'beachdb.term > 3'
--   tshark -X lua_script:proto-spec/beachdb.lua -r capture.pcap -Y 'beachdb.status != 0'
--
-- Ports 7400 (clients) and 7401 (peers) are taken by default; another one: -d tcp.port==9000,beachdb
-- A frame between nodes is told by its opcode, on any port.
-- Text commands on the same port are shown as beachdb.inline. The checksum is verified where Lua has bit operations.
-- tests/dissector.rs runs this file over every frame of vectors/frames.json and peer-frames.json.

local beachdb = Proto("beachdb", "BeachDB protocol")

local HEADER = 24
local OPCODES = {
  [0] = "connection", [1] = "HELLO", [2] = "PING", [3] = "GET", [4] = "PUT",
  [5] = "DELETE", [6] = "WRITE", [7] = "SCAN", [8] = "STATUS", [9] = "STATS",
  [10] = "REGISTER", [11] = "MEMBERS", [12] = "ADMIN", [13] = "MULTI_GET",
}
-- Those of the peers begin at 0x40; only HELLO and PING have replies.
local PEER_OPCODES = {
  [0x40] = "HELLO", [0x41] = "PRE_VOTE", [0x42] = "PRE_VOTE_REPLY", [0x43] = "VOTE", [0x44] = "VOTE_REPLY",
  [0x45] = "APPEND", [0x46] = "APPEND_REPLY", [0x47] = "READ_INDEX", [0x48] = "READ_INDEX_REPLY",
  [0x49] = "SNAPSHOT", [0x4a] = "SNAPSHOT_REPLY", [0x4b] = "TRANSFER_NOW", [0x4c] = "BEGIN", [0x4d] = "PING",
  [0x4e] = "CLUSTER",
  [0xc0] = "HELLO reply", [0xcd] = "PING reply",
}
local STATUS = {
  [0] = "OK",
  [1] = "BAD_FRAME", [2] = "BAD_VERSION", [3] = "BAD_CRC", [4] = "FRAME_TOO_LARGE", [5] = "WRONG_PROTOCOL",
  [6] = "NO_CRC_NOT_ALLOWED", [7] = "SLOW_FRAME", [8] = "IDLE_TIMEOUT", [9] = "TOO_MANY_CONNECTIONS",
  [10] = "WRONG_PORT",
  [16] = "UNKNOWN_OPCODE", [17] = "BAD_REQUEST", [18] = "DUPLICATE_REQUEST_ID", [19] = "KEY_TOO_LARGE",
  [20] = "VALUE_TOO_LARGE", [21] = "BATCH_TOO_LARGE", [22] = "RESERVED_KEY", [23] = "WRONG_CLUSTER",
  [24] = "UNKNOWN_SESSION", [25] = "SESSION_STALE", [26] = "SESSION_WINDOW_FULL",
  [27] = "DUPLICATE_NODE", [28] = "WRONG_NODE", [29] = "CONDITION_FAILED",
  [32] = "BUSY", [33] = "DEADLINE_EXCEEDED", [34] = "NOT_LEADER", [35] = "SHUTTING_DOWN", [36] = "NO_SPACE",
  [37] = "SNAPSHOT_TOO_OLD", [38] = "READ_ERROR", [39] = "INTERNAL",
  [40] = "REPLY_TOO_LARGE",
}
local EFFECTS = { [0] = "none", [1] = "not_applied", [2] = "applied", [3] = "unknown" }
local ADMIN = { [1] = "add", [2] = "promote", [3] = "remove", [4] = "transfer",
  [5] = "checkpoint", [6] = "verify", [7] = "compact" }
local KINDS = {
  [0x01] = "PUT", [0x02] = "DELETE", [0x03] = "DELETE_RANGE", [0x80] = "no-op", [0x81] = "REGISTER", [0x82] = "membership",
}
local CONDITIONS = { [0x01] = "absent", [0x02] = "exists", [0x03] = "written under a sequence number" }
local ROLES = { [1] = "voter", [2] = "learner" }
local LANES = { [1] = "raft", [2] = "bulk" }
local APPEND_ANSWERS = { [1] = "accepted", [2] = "rejected" }
local SNAPSHOT_ANSWERS = { [1] = "go on", [2] = "installed", [3] = "refused" }

local f = {
  length = ProtoField.uint32("beachdb.length", "Length"),
  version = ProtoField.uint8("beachdb.version", "Version"),
  opcode = ProtoField.uint8("beachdb.opcode", "Opcode", base.HEX),
  reply = ProtoField.bool("beachdb.reply", "Reply"),
  flags = ProtoField.uint16("beachdb.flags", "Flags", base.HEX),
  stale = ProtoField.bool("beachdb.stale", "Stale read"),
  age = ProtoField.uint64("beachdb.stale.age_ms", "Age (ms)"),
  request_id = ProtoField.uint64("beachdb.request_id", "Request id"),
  deadline = ProtoField.uint32("beachdb.deadline_ms", "Deadline (ms)"),
  status = ProtoField.uint32("beachdb.status", "Status", base.DEC, STATUS),
  crc = ProtoField.uint32("beachdb.crc", "CRC32C", base.HEX),
  crc_good = ProtoField.bool("beachdb.crc_good", "CRC32C is good"),
  key = ProtoField.string("beachdb.key", "Key"),
  value = ProtoField.bytes("beachdb.value", "Value"),
  snapshot = ProtoField.uint64("beachdb.snapshot", "Snapshot"),
  seq = ProtoField.uint64("beachdb.seq", "Sequence"),
  first_seq = ProtoField.uint64("beachdb.first_seq", "First sequence"),
  last_seq = ProtoField.uint64("beachdb.last_seq", "Last sequence"),
  applied = ProtoField.uint64("beachdb.applied", "Applied sequence"),
  index = ProtoField.uint64("beachdb.index", "Log index"),
  ops = ProtoField.uint32("beachdb.batch.ops", "Operations"),
  max_window = ProtoField.uint32("beachdb.session.window", "Window"),
  window = ProtoField.uint16("beachdb.batch.window", "Session window"),
  client_id = ProtoField.uint64("beachdb.batch.client_id", "Client id"),
  client_seq = ProtoField.uint64("beachdb.batch.client_seq", "Client sequence"),
  op_kind = ProtoField.uint8("beachdb.op.kind", "Operation", base.HEX, KINDS),
  conditions = ProtoField.uint16("beachdb.batch.conditions", "Conditions"),
  condition_kind = ProtoField.uint8("beachdb.condition.kind", "Condition", base.HEX, CONDITIONS),
  condition = ProtoField.uint32("beachdb.error.condition", "Failed condition"),
  present = ProtoField.uint64("beachdb.error.present", "Present sequence"),
  keys = ProtoField.uint32("beachdb.multi_get.keys", "Keys"),
  limit = ProtoField.uint32("beachdb.scan.limit", "Limit"),
  max_bytes = ProtoField.uint32("beachdb.scan.max_bytes", "Byte limit"),
  scan_flags = ProtoField.uint16("beachdb.scan.flags", "Scan flags", base.HEX),
  start = ProtoField.string("beachdb.scan.start", "Start or prefix"),
  stop = ProtoField.string("beachdb.scan.end", "End"),
  resume = ProtoField.string("beachdb.scan.resume", "Resume key"),
  count = ProtoField.uint32("beachdb.scan.count", "Entries"),
  retry_after = ProtoField.uint32("beachdb.error.retry_after_ms", "Retry after (ms)"),
  effect = ProtoField.uint8("beachdb.error.effect", "Effect on the write", base.DEC, EFFECTS),
  leader = ProtoField.string("beachdb.error.leader", "Leader's address"),
  message = ProtoField.string("beachdb.error.message", "Message"),
  min_version = ProtoField.uint8("beachdb.hello.min_version", "Lowest version"),
  max_version = ProtoField.uint8("beachdb.hello.max_version", "Highest version"),
  name = ProtoField.string("beachdb.hello.name", "Name"),
  cluster = ProtoField.string("beachdb.hello.cluster", "Cluster"),
  node = ProtoField.uint64("beachdb.hello.node", "Node"),
  admin_kind = ProtoField.uint8("beachdb.admin.kind", "Command", base.DEC, ADMIN),
  address = ProtoField.string("beachdb.admin.address", "Peer address"),
  admin_path = ProtoField.string("beachdb.admin.path", "Path"),
  admin_rate = ProtoField.uint64("beachdb.admin.rate", "Bytes a second"),
  json = ProtoField.string("beachdb.json", "Document"),
  inline = ProtoField.string("beachdb.inline", "Text"),
  term = ProtoField.uint64("beachdb.term", "Term"),
  lane = ProtoField.uint8("beachdb.peer.lane", "Lane", base.DEC, LANES),
  blank = ProtoField.uint8("beachdb.peer.blank", "Blank"),
  features = ProtoField.uint64("beachdb.peer.features", "Features", base.HEX),
  incarnation = ProtoField.uint64("beachdb.peer.incarnation", "Incarnation", base.HEX),
  wanted = ProtoField.uint64("beachdb.peer.wanted", "Wanted node"),
  list = ProtoField.uint32("beachdb.peer.list", "Check of the initial list", base.HEX),
  cluster_uid = ProtoField.uint64("beachdb.peer.cluster_uid", "Cluster uid", base.HEX),
  known = ProtoField.uint64("beachdb.peer.known", "Known as incarnation", base.HEX),
  peer_address = ProtoField.string("beachdb.peer.peer_address", "Peer address"),
  client_address = ProtoField.string("beachdb.peer.client_address", "Client address"),
  role = ProtoField.uint8("beachdb.member.role", "Role", base.DEC, ROLES),
  last_index = ProtoField.uint64("beachdb.vote.last_index", "Last index"),
  last_term = ProtoField.uint64("beachdb.vote.last_term", "Last term"),
  by_transfer = ProtoField.uint8("beachdb.vote.transfer", "Asked for by the leader"),
  granted = ProtoField.uint8("beachdb.vote.granted", "Granted"),
  session = ProtoField.uint64("beachdb.append.session", "Replication session"),
  round = ProtoField.uint64("beachdb.append.round", "Round"),
  prev_index = ProtoField.uint64("beachdb.append.prev_index", "Previous index"),
  prev_term = ProtoField.uint64("beachdb.append.prev_term", "Previous term"),
  commit = ProtoField.uint64("beachdb.append.commit", "Commit index"),
  entries = ProtoField.uint32("beachdb.append.entries", "Entries"),
  append_answer = ProtoField.uint8("beachdb.append.answer", "Answer", base.DEC, APPEND_ANSWERS),
  matched = ProtoField.uint64("beachdb.append.matched", "Matched index"),
  conflict_term = ProtoField.uint64("beachdb.append.conflict_term", "Conflicting term"),
  conflict_index = ProtoField.uint64("beachdb.append.conflict_index", "Go on from index"),
  entry_index = ProtoField.uint64("beachdb.entry.index", "Index"),
  entry_term = ProtoField.uint64("beachdb.entry.term", "Term"),
  payload = ProtoField.bytes("beachdb.entry.payload", "Payload"),
  read = ProtoField.uint64("beachdb.read", "Read"),
  answered = ProtoField.uint8("beachdb.read.answered", "Answered"),
  transfer = ProtoField.uint64("beachdb.snapshot.transfer", "Transfer"),
  offset = ProtoField.uint64("beachdb.snapshot.offset", "Offset"),
  data_crc = ProtoField.uint32("beachdb.snapshot.data_crc", "CRC32C of the data", base.HEX),
  data = ProtoField.bytes("beachdb.snapshot.data", "Data"),
  description = ProtoField.bytes("beachdb.snapshot.description", "Description"),
  stream_bytes = ProtoField.uint64("beachdb.snapshot.stream_bytes", "Bytes of the stream"),
  membership_index = ProtoField.uint64("beachdb.snapshot.membership_index", "Membership of index"),
  snapshot_answer = ProtoField.uint8("beachdb.snapshot.answer", "Answer", base.DEC, SNAPSHOT_ANSWERS),
  reason = ProtoField.string("beachdb.snapshot.reason", "Reason"),
}
local fields = {}
for _, field in pairs(f) do fields[#fields + 1] = field end
beachdb.fields = fields

local bad_crc = ProtoExpert.new("beachdb.bad_crc", "CRC32C does not match", expert.group.CHECKSUM, expert.severity.ERROR)
local malformed = ProtoExpert.new("beachdb.malformed", "The body does not fit its opcode", expert.group.MALFORMED, expert.severity.ERROR)
local failed = ProtoExpert.new("beachdb.failed", "The request failed", expert.group.RESPONSE_CODE, expert.severity.NOTE)
beachdb.experts = { bad_crc, malformed, failed }

-- CRC32C, table-driven; nil where Lua has no bit operations.
local bits = bit32 or bit
local crc_table
if bits then
  crc_table = {}
  for i = 0, 255 do
    local crc = i
    for _ = 1, 8 do
      local low = bits.band(crc, 1)
      crc = bits.rshift(crc, 1)
      if low == 1 then crc = bits.bxor(crc, 0x82F63B78) end
    end
    crc_table[i] = crc
  end
end

local function crc32c(tvb)
  if not crc_table then return nil end
  local bytes = tvb:bytes()
  local crc = 0xFFFFFFFF
  for i = 0, bytes:len() - 1 do
    local byte = bytes:get_index(i)
    if i >= 20 and i < 24 then byte = 0 end
    crc = bits.bxor(crc_table[bits.band(bits.bxor(crc, byte), 0xFF)], bits.rshift(crc, 8))
  end
  -- Some libraries answer with signed numbers.
  return bits.bxor(crc, 0xFFFFFFFF) % 4294967296
end

-- Bytes as text with \xNN escapes, as beachctl shows them.
local function shown(range)
  local out = {}
  local bytes = range:bytes()
  for i = 0, bytes:len() - 1 do
    local b = bytes:get_index(i)
    if b == 0x5C then
      out[#out + 1] = "\\\\"
    elseif b >= 0x20 and b < 0x7F then
      out[#out + 1] = string.char(b)
    else
      out[#out + 1] = string.format("\\x%02x", b)
    end
  end
  return table.concat(out)
end

-- A field of escaped text; nothing for an empty range.
local function text(tree, field, tvb, at, len)
  if len == 0 then return "" end
  local range = tvb(at, len)
  local s = shown(range)
  tree:add(field, range, s)
  return s
end

local function bytes(tree, field, tvb, at, len)
  if len > 0 then tree:add(field, tvb(at, len)) end
end

-- LEB128: the value and the offset after it, or nil.
local function varint(tvb, at)
  local value, scale = 0, 1
  while at < tvb:len() do
    local byte = tvb(at, 1):uint()
    value = value + (byte % 128) * scale
    scale = scale * 128
    at = at + 1
    if byte < 128 then return value, at end
  end
  return nil
end

local function padded(n) return n + (-n) % 8 end

-- The members of the cluster; the offset after them, or nil.
local function membership(tvb, at, tree)
  local count = tvb(at + 1, 1):uint()
  at = at + 2
  for _ = 1, count do
    local peer, client = tvb(at + 17, 2):uint(), tvb(at + 19, 2):uint()
    local one = tree:add(beachdb, tvb(at, 21 + peer + client), "Member")
    one:add(f.node, tvb(at, 8))
    one:add(f.incarnation, tvb(at + 8, 8))
    one:add(f.role, tvb(at + 16, 1))
    text(one, f.peer_address, tvb, at + 21, peer)
    text(one, f.client_address, tvb, at + 21 + peer, client)
    one:append_text(" " .. tostring(tvb(at, 8):uint64()) .. ", " .. (ROLES[tvb(at + 16, 1):uint()] or "BAD"))
    at = at + 21 + peer + client
  end
  return at, count
end

local function batch(tvb, at, tree)
  local size = tvb:len()
  local head = tree:add(beachdb, tvb(at), "Batch")
  local ops = tvb(at + 4, 4):uint()
  head:add(f.window, tvb(at + 2, 2))
  head:add(f.ops, tvb(at + 4, 4))
  head:add(f.client_id, tvb(at + 8, 8))
  head:add(f.client_seq, tvb(at + 16, 8))
  local flags = tvb(at + 1, 1):uint()
  at = at + 24
  local first
  if flags % 2 == 1 then
    local count = tvb(at, 2):uint()
    head:add(f.conditions, tvb(at, 2))
    at = at + 2
    for _ = 1, count do
      if at >= size then return nil end
      local kind = tvb(at, 1):uint()
      local condition = head:add(beachdb, tvb(at), CONDITIONS[kind] or "unknown condition")
      condition:add(f.condition_kind, tvb(at, 1))
      local len
      len, at = varint(tvb, at + 1)
      if not len or at + len > size then return nil end
      local key = text(condition, f.key, tvb, at, len)
      condition:append_text(" " .. key)
      first = first or key
      at = at + len
      if kind == 0x03 then
        local seq
        seq, at = varint(tvb, at)
        if not seq then return nil end
      end
    end
  end
  for _ = 1, ops do
    if at >= size then return nil end
    local begin, kind = at, tvb(at, 1):uint()
    local op = head:add(beachdb, tvb(at), KINDS[kind] or "unknown operation")
    op:add(f.op_kind, tvb(at, 1))
    at = at + 1
    if kind == 0x01 or kind == 0x02 then
      local len
      len, at = varint(tvb, at)
      if not len or at + len > size then return nil end
      local key = text(op, f.key, tvb, at, len)
      op:append_text(" " .. key)
      first = first or key
      at = at + len
      if kind == 0x01 then
        len, at = varint(tvb, at)
        if not len or at + len > size then return nil end
        bytes(op, f.value, tvb, at, len)
        at = at + len
      end
    elseif kind == 0x03 then
      local len
      len, at = varint(tvb, at)
      if not len or at + len > size then return nil end
      local start = text(op, f.start, tvb, at, len)
      at = at + len
      len, at = varint(tvb, at)
      if not len or at + len > size then return nil end
      local stop = text(op, f.stop, tvb, at, len)
      at = at + len
      op:append_text(" " .. start .. ".." .. stop)
      first = first or (start .. ".." .. stop)
    elseif kind == 0x82 then
      local len
      len, at = varint(tvb, at)
      if not len or at + len > size or membership(tvb, at, op) ~= at + len then return nil end
      at = at + len
    elseif kind ~= 0x80 and kind ~= 0x81 then
      return nil
    end
    op:set_len(at - begin)
  end
  return (first or "") .. (ops > 1 and string.format(" and %d more", ops - 1) or "")
end

-- Each takes (tvb of the frame, tree) and returns a summary, or nil when the body is malformed.
local request = {
  [1] = function(tvb, tree)
    tree:add(f.min_version, tvb(24, 1))
    tree:add(f.max_version, tvb(25, 1))
    local name, cluster = tvb(26, 2):uint(), tvb(28, 2):uint()
    local s = text(tree, f.name, tvb, 32, name)
    text(tree, f.cluster, tvb, 32 + name, cluster)
    return s
  end,
  [3] = function(tvb, tree)
    tree:add(f.snapshot, tvb(24, 8))
    return text(tree, f.key, tvb, 32, tvb:len() - 32)
  end,
  [4] = function(tvb, tree) return batch(tvb, 24, tree) end,
  [5] = function(tvb, tree) return batch(tvb, 24, tree) end,
  [6] = function(tvb, tree) return batch(tvb, 24, tree) end,
  [7] = function(tvb, tree)
    tree:add(f.snapshot, tvb(24, 8))
    tree:add(f.limit, tvb(32, 4))
    tree:add(f.max_bytes, tvb(36, 4))
    tree:add(f.scan_flags, tvb(40, 2))
    local start, stop, resume = tvb(42, 2):uint(), tvb(44, 2):uint(), tvb(46, 2):uint()
    local s = text(tree, f.start, tvb, 48, start)
    local e = text(tree, f.stop, tvb, 48 + start, stop)
    text(tree, f.resume, tvb, 48 + start + stop, resume)
    return s .. ".." .. e
  end,
}

request[12] = function(tvb, tree)
  local kind = tvb(24, 1):uint()
  tree:add(f.admin_kind, tvb(24, 1))
  if kind == 6 then
    tree:add(f.admin_rate, tvb(32, 8))
    return "verify"
  elseif kind == 7 then
    local both, start = tvb(30, 2):uint(), tvb(32, 8):uint64():tonumber()
    local s = text(tree, f.start, tvb, 40, start)
    return "compact " .. s .. ".." .. text(tree, f.stop, tvb, 40 + start, both - start)
  elseif kind == 5 then
    return "checkpoint " .. text(tree, f.admin_path, tvb, 40, tvb(30, 2):uint())
  end
  tree:add(f.node, tvb(32, 8))
  local at = text(tree, f.address, tvb, 40, tvb(30, 2):uint())
  return string.format("%s %s %s", ADMIN[tvb(24, 1):uint()] or "?", tostring(tvb(32, 8):uint64()), at)
end

request[13] = function(tvb, tree)
  tree:add(f.snapshot, tvb(24, 8))
  tree:add(f.keys, tvb(32, 4))
  local at, count = 40, tvb(32, 4):uint()
  for _ = 1, count do
    if at + 2 > tvb:len() then return nil end
    local len = tvb(at, 2):uint()
    if at + 2 + len > tvb:len() then return nil end
    text(tree, f.key, tvb, at + 2, len)
    at = at + 2 + len
  end
  return string.format("%d keys", count)
end

local reply = {
  [1] = function(tvb, tree)
    tree:add(f.version, tvb(24, 1))
    tree:add(f.node, tvb(72, 8))
    local cluster, server = tvb(80, 2):uint(), tvb(82, 2):uint()
    text(tree, f.cluster, tvb, 88, cluster)
    return text(tree, f.name, tvb, 88 + cluster, server)
  end,
  [3] = function(tvb, tree)
    tree:add(f.seq, tvb(24, 8))
    tree:add(f.applied, tvb(32, 8))
    bytes(tree, f.value, tvb, 40, tvb:len() - 40)
    if tvb(24, 8):uint64() == UInt64(0) then return "not found" end
    return string.format("%d bytes", tvb:len() - 40)
  end,
  [4] = function(tvb, tree)
    tree:add(f.index, tvb(24, 8))
    tree:add(f.first_seq, tvb(32, 8))
    tree:add(f.last_seq, tvb(40, 8))
    return "sequence " .. tostring(tvb(40, 8):uint64())
  end,
  [10] = function(tvb, tree)
    tree:add(f.client_id, tvb(24, 8))
    tree:add(f.applied, tvb(32, 8))
    tree:add(f.max_window, tvb(40, 4))
    return "client " .. tostring(tvb(24, 8):uint64())
  end,
  [7] = function(tvb, tree)
    tree:add(f.snapshot, tvb(24, 8))
    tree:add(f.applied, tvb(32, 8))
    tree:add(f.count, tvb(40, 4))
    tree:add(f.scan_flags, tvb(44, 2))
    local count, resume = tvb(40, 4):uint(), tvb(46, 2):uint()
    text(tree, f.resume, tvb, 48, resume)
    local at = 48 + padded(resume)
    for _ = 1, count do
      if at + 16 > tvb:len() then return nil end
      local key, value = tvb(at + 8, 4):uint(), tvb(at + 12, 4):uint()
      local size = 16 + padded(key + value)
      if at + size > tvb:len() then return nil end
      local entry = tree:add(beachdb, tvb(at, size), "Entry")
      entry:add(f.seq, tvb(at, 8))
      entry:append_text(" " .. text(entry, f.key, tvb, at + 16, key))
      bytes(entry, f.value, tvb, at + 16 + key, value)
      at = at + size
    end
    return string.format("%d entries%s", count, resume > 0 and ", more" or "")
  end,
}
reply[13] = function(tvb, tree)
  tree:add(f.applied, tvb(24, 8))
  tree:add(f.keys, tvb(32, 4))
  local at, count = 40, tvb(32, 4):uint()
  for _ = 1, count do
    if at + 16 > tvb:len() then return nil end
    local len = tvb(at + 8, 4):uint()
    if at + 16 + padded(len) > tvb:len() then return nil end
    tree:add(f.seq, tvb(at, 8))
    bytes(tree, f.value, tvb, at + 16, len)
    at = at + 16 + padded(len)
  end
  return string.format("%d values", count)
end
reply[5], reply[6], reply[12] = reply[4], reply[4], reply[4]
for _, document in ipairs({ 8, 9, 11 }) do
  reply[document] = function(tvb, tree)
    if tvb:len() == HEADER then return nil end
    tree:add(f.json, tvb(HEADER), tvb(HEADER):string())
    return ""
  end
end

-- HELLO and its reply from row 1 on: they differ in row 4.
local function who(tvb, tree, row4)
  tree:add(f.features, tvb(32, 8))
  tree:add(f.node, tvb(40, 8))
  tree:add(f.incarnation, tvb(48, 8))
  tree:add(row4, tvb(56, 8))
  tree:add(f.cluster_uid, tvb(64, 8))
  local at = 80
  for i, field in ipairs({ f.cluster, f.peer_address, f.client_address, f.name }) do
    local len = tvb(70 + 2 * i, 2):uint()
    text(tree, field, tvb, at, len)
    at = at + len
  end
  if at ~= tvb:len() then return nil end
  return "node " .. tostring(tvb(40, 8):uint64())
end

local function end_of_log(tvb, tree)
  tree:add(f.last_index, tvb(24, 8))
  tree:add(f.last_term, tvb(32, 8))
  return string.format("last %s of term %s", tostring(tvb(24, 8):uint64()), tostring(tvb(32, 8):uint64()))
end

local function granted(tvb, tree)
  tree:add(f.granted, tvb(24, 1))
  return tvb(24, 1):uint() == 1 and "granted" or "refused"
end

local peer = {
  [0x40] = function(tvb, tree)
    tree:add(f.min_version, tvb(24, 1))
    tree:add(f.max_version, tvb(25, 1))
    tree:add(f.lane, tvb(26, 1))
    tree:add(f.blank, tvb(27, 1))
    tree:add(f.list, tvb(28, 4))
    return who(tvb, tree, f.wanted)
  end,
  [0xc0] = function(tvb, tree)
    tree:add(f.version, tvb(24, 1))
    tree:add(f.blank, tvb(25, 1))
    return who(tvb, tree, f.known)
  end,
  [0x41] = end_of_log,
  [0x42] = granted,
  [0x43] = function(tvb, tree)
    tree:add(f.by_transfer, tvb(40, 1))
    return end_of_log(tvb, tree)
  end,
  [0x44] = granted,
  [0x45] = function(tvb, tree)
    for i, field in ipairs({ f.session, f.round, f.prev_index, f.prev_term, f.commit }) do
      tree:add(field, tvb(16 + 8 * i, 8))
    end
    tree:add(f.entries, tvb(64, 4))
    local count, at = tvb(64, 4):uint(), 72
    for _ = 1, count do
      local len = tvb(at + 16, 4):uint()
      local entry = tree:add(beachdb, tvb(at, 24 + padded(len)), "Entry")
      entry:add(f.entry_index, tvb(at, 8))
      entry:add(f.entry_term, tvb(at + 8, 8))
      entry:append_text(" " .. tostring(tvb(at, 8):uint64()))
      if len > 0 then
        entry:add(f.payload, tvb(at + 24, len))
        -- The protocol does not look into payloads, so one that is no batch is not malformed.
        pcall(batch, tvb(at + 24, len):tvb(), 0, entry)
      end
      at = at + 24 + padded(len)
    end
    if at ~= tvb:len() then return nil end
    local after = string.format("%d entries after %s", count, tostring(tvb(40, 8):uint64()))
    return after .. ", commit " .. tostring(tvb(56, 8):uint64())
  end,
  [0x46] = function(tvb, tree)
    tree:add(f.session, tvb(24, 8))
    tree:add(f.round, tvb(32, 8))
    tree:add(f.append_answer, tvb(40, 1))
    if tvb(40, 1):uint() == 1 then
      tree:add(f.matched, tvb(48, 8))
      return "matched " .. tostring(tvb(48, 8):uint64())
    end
    tree:add(f.prev_index, tvb(48, 8))
    tree:add(f.conflict_term, tvb(56, 8))
    tree:add(f.conflict_index, tvb(64, 8))
    return "rejected after " .. tostring(tvb(48, 8):uint64())
  end,
  [0x47] = function(tvb, tree)
    tree:add(f.read, tvb(24, 8))
    return "read " .. tostring(tvb(24, 8):uint64())
  end,
  [0x48] = function(tvb, tree)
    tree:add(f.read, tvb(24, 8))
    tree:add(f.answered, tvb(32, 1))
    tree:add(f.index, tvb(40, 8))
    return "read " .. tostring(tvb(24, 8):uint64()) .. " at " .. tostring(tvb(40, 8):uint64())
  end,
  [0x49] = function(tvb, tree)
    tree:add(f.session, tvb(24, 8))
    tree:add(f.transfer, tvb(32, 8))
    tree:add(f.offset, tvb(40, 8))
    tree:add(f.data_crc, tvb(48, 4))
    local members, at = tvb(52, 4):uint(), 56
    if members > 0 then
      tree:add(f.index, tvb(56, 8))
      tree:add(f.entry_term, tvb(64, 8))
      tree:add(f.membership_index, tvb(72, 8))
      tree:add(f.stream_bytes, tvb(80, 8))
      local description = tvb(88, 4):uint()
      if membership(tvb, 96, tree) ~= 96 + members then return nil end
      at = 96 + padded(members)
      bytes(tree, f.description, tvb, at, description)
      at = at + padded(description)
    end
    if at > tvb:len() then return nil end
    bytes(tree, f.data, tvb, at, tvb:len() - at)
    return string.format("%d bytes at %s", tvb:len() - at, tostring(tvb(40, 8):uint64()))
  end,
  [0x4a] = function(tvb, tree)
    tree:add(f.session, tvb(24, 8))
    tree:add(f.transfer, tvb(32, 8))
    tree:add(f.snapshot_answer, tvb(40, 1))
    local answer = tvb(40, 1):uint()
    if answer == 3 then
      local reason = tvb:len() > 48 and tvb(48):string() or ""
      if reason ~= "" then tree:add(f.reason, tvb(48), reason) end
      return "refused " .. reason
    end
    tree:add(answer == 1 and f.offset or f.index, tvb(48, 8))
    return (SNAPSHOT_ANSWERS[answer] or "BAD") .. " " .. tostring(tvb(48, 8):uint64())
  end,
  [0x4c] = function(tvb, tree)
    tree:add(f.cluster_uid, tvb(24, 8))
    local at, count = membership(tvb, 32, tree)
    if at ~= tvb:len() then return nil end
    return string.format("%d members", count)
  end,
  [0xcd] = function(tvb, tree)
    tree:add(f.blank, tvb(24, 1))
    tree:add(f.known, tvb(32, 8))
    tree:add(f.cluster_uid, tvb(40, 8))
    return ""
  end,
  [0x4e] = function(tvb, tree)
    tree:add(f.cluster_uid, tvb(24, 8))
    return ""
  end,
}

local function failure(tvb, tree)
  tree:add(f.retry_after, tvb(24, 4))
  tree:add(f.effect, tvb(28, 1))
  local leader = tvb(30, 2):uint()
  text(tree, f.leader, tvb, 32, leader)
  local at = 32 + leader
  if tvb(16, 4):uint() == 29 and tvb:len() >= at + 32 then
    tree:add(f.index, tvb(at, 8))
    tree:add(f.applied, tvb(at + 8, 8))
    tree:add(f.present, tvb(at + 16, 8))
    tree:add(f.condition, tvb(at + 24, 4))
    at = at + 32
  end
  local message = tvb:len() > at and tvb(at):string() or ""
  if message ~= "" then tree:add(f.message, tvb(at), message) end
  tree:add_proto_expert_info(failed)
  return message
end

local function frame(tvb, pinfo, root)
  local tree = root:add(beachdb, tvb())
  local opcode = tvb(5, 1):uint()
  local is_reply = opcode >= 0x80
  local number = is_reply and opcode - 0x80 or opcode
  local status = tvb(16, 4):uint()
  tree:add(f.length, tvb(0, 4))
  tree:add(f.version, tvb(4, 1))
  local of_peer = PEER_OPCODES[opcode]
  local name = of_peer or OPCODES[number] or string.format("opcode %d", number)
  local kind = of_peer and "peer " .. of_peer or name .. (is_reply and " reply" or " request")
  tree:add(f.opcode, tvb(5, 1)):append_text(" (" .. kind .. ")")
  tree:add(f.reply, tvb(5, 1), is_reply)
  tree:add(f.flags, tvb(6, 2))
  local stale = math.floor(tvb(6, 2):uint() / 2) % 2 == 1
  if stale then tree:add(f.stale, tvb(6, 2), true) end
  if of_peer then
    tree:add(f.term, tvb(8, 8))
  else
    tree:add(f.request_id, tvb(8, 8))
    tree:add(is_reply and f.status or f.deadline, tvb(16, 4))
  end
  local crc = tree:add(f.crc, tvb(20, 4))
  if tvb(6, 2):uint() % 2 == 0 then
    local computed = crc32c(tvb)
    if computed then
      local good = computed == tvb(20, 4):uint()
      tree:add(f.crc_good, tvb(20, 4), good):set_generated()
      if not good then crc:add_proto_expert_info(bad_crc) end
    end
  end

  local body
  if of_peer then
    body = peer[opcode]
  else
    body = (is_reply and status ~= 0) and failure or (is_reply and reply or request)[number]
  end
  local summary = ""
  if body then
    -- A body shorter than its fixed rows makes the range functions raise an error.
    local ok, told = pcall(function()
      if not is_reply or status ~= 0 or not stale then return body(tvb, tree) end
      -- Two rows in front of what the functions know: they see a frame that begins 16 bytes later.
      tree:add(f.index, tvb(24, 8))
      tree:add(f.age, tvb(32, 8))
      return body(tvb(16):tvb(), tree)
    end)
    if ok and told then
      summary = told
    else
      tree:add_proto_expert_info(malformed)
      summary = "[malformed]"
    end
  end
  if of_peer then
    local line = string.format("%s term %s %s", kind, tostring(tvb(8, 8):uint64()), summary)
    tree:append_text(", " .. line)
    pinfo.cols.info:append(" " .. line)
    return
  end
  local arrow = is_reply and (STATUS[status] or ("status " .. status)) or "?"
  local line = string.format("%s #%s %s %s", name, tostring(tvb(8, 8):uint64()), arrow, summary)
  tree:append_text(", " .. line)
  pinfo.cols.info:append(" " .. line)
end

local function frame_length(tvb, _, at)
  return math.max(tvb(at, 4):uint(), HEADER)
end

function beachdb.dissector(tvb, pinfo, root)
  pinfo.cols.protocol = "BeachDB"
  if tvb(0, 1):uint() == 0 then
    pinfo.cols.info = ""
    dissect_tcp_pdus(tvb, root, 4, frame_length, frame)
    return tvb:len()
  end
  local tree = root:add(beachdb, tvb())
  local s = text(tree, f.inline, tvb, 0, tvb:len())
  tree:append_text(", text")
  pinfo.cols.info = "text: " .. s
  return tvb:len()
end

DissectorTable.get("tcp.port"):add(7400, beachdb)
DissectorTable.get("tcp.port"):add(7401, beachdb)
