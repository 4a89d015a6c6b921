-- BeachDB's client protocol for Wireshark and tshark. Layouts: client.md, batch.md, errors.md.
--
--   tshark -X lua_script:proto-spec/beachdb.lua -i lo -f 'tcp port 7400' -O beachdb
--   tshark -X lua_script:proto-spec/beachdb.lua -r capture.pcap -Y 'beachdb.status != 0'
--
-- Port 7400 is taken by default; another one: -d tcp.port==9000,beachdb
-- Text commands on the same port are shown as beachdb.inline. The checksum is verified where Lua has bit operations.
-- tests/dissector.rs runs this file over every frame of vectors/frames.json.

local beachdb = Proto("beachdb", "BeachDB client protocol")

local HEADER = 24
local OPCODES = {
  [0] = "connection", [1] = "HELLO", [2] = "PING", [3] = "GET", [4] = "PUT",
  [5] = "DELETE", [6] = "WRITE", [7] = "SCAN", [8] = "STATUS", [9] = "STATS",
  [10] = "REGISTER", [11] = "MEMBERS", [12] = "ADMIN",
}
local STATUS = {
  [0] = "OK",
  [1] = "BAD_FRAME", [2] = "BAD_VERSION", [3] = "BAD_CRC", [4] = "FRAME_TOO_LARGE", [5] = "WRONG_PROTOCOL",
  [6] = "NO_CRC_NOT_ALLOWED", [7] = "SLOW_FRAME", [8] = "IDLE_TIMEOUT", [9] = "TOO_MANY_CONNECTIONS",
  [10] = "WRONG_PORT",
  [16] = "UNKNOWN_OPCODE", [17] = "BAD_REQUEST", [18] = "DUPLICATE_REQUEST_ID", [19] = "KEY_TOO_LARGE",
  [20] = "VALUE_TOO_LARGE", [21] = "BATCH_TOO_LARGE", [22] = "RESERVED_KEY", [23] = "WRONG_CLUSTER",
  [24] = "UNKNOWN_SESSION", [25] = "SESSION_STALE", [26] = "SESSION_WINDOW_FULL",
  [27] = "DUPLICATE_NODE", [28] = "WRONG_NODE",
  [32] = "BUSY", [33] = "DEADLINE_EXCEEDED", [34] = "NOT_LEADER", [35] = "SHUTTING_DOWN", [36] = "NO_SPACE",
  [37] = "SNAPSHOT_TOO_OLD", [38] = "READ_ERROR", [39] = "INTERNAL",
}
local EFFECTS = { [0] = "none", [1] = "not_applied", [2] = "applied", [3] = "unknown" }
local ADMIN = { [1] = "add", [2] = "promote", [3] = "remove", [4] = "transfer" }
local KINDS = { [0x01] = "PUT", [0x02] = "DELETE", [0x80] = "no-op" }

local f = {
  length = ProtoField.uint32("beachdb.length", "Length"),
  version = ProtoField.uint8("beachdb.version", "Version"),
  opcode = ProtoField.uint8("beachdb.opcode", "Opcode", base.HEX),
  reply = ProtoField.bool("beachdb.reply", "Reply"),
  flags = ProtoField.uint16("beachdb.flags", "Flags", base.HEX),
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
  json = ProtoField.string("beachdb.json", "Document"),
  inline = ProtoField.string("beachdb.inline", "Text"),
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

local function batch(tvb, at, tree)
  local size = tvb:len()
  local head = tree:add(beachdb, tvb(at), "Batch")
  local ops = tvb(at + 4, 4):uint()
  head:add(f.window, tvb(at + 2, 2))
  head:add(f.ops, tvb(at + 4, 4))
  head:add(f.client_id, tvb(at + 8, 8))
  head:add(f.client_seq, tvb(at + 16, 8))
  at = at + 24
  local first
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
    elseif kind ~= 0x80 then
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
  tree:add(f.admin_kind, tvb(24, 1))
  tree:add(f.node, tvb(32, 8))
  local at = text(tree, f.address, tvb, 40, tvb(30, 2):uint())
  return string.format("%s %s %s", ADMIN[tvb(24, 1):uint()] or "?", tostring(tvb(32, 8):uint64()), at)
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
reply[5], reply[6], reply[12] = reply[4], reply[4], reply[4]
for _, document in ipairs({ 8, 9, 11 }) do
  reply[document] = function(tvb, tree)
    if tvb:len() == HEADER then return nil end
    tree:add(f.json, tvb(HEADER), tvb(HEADER):string())
    return ""
  end
end

local function failure(tvb, tree)
  tree:add(f.retry_after, tvb(24, 4))
  tree:add(f.effect, tvb(28, 1))
  local leader = tvb(30, 2):uint()
  text(tree, f.leader, tvb, 32, leader)
  local at = 32 + leader
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
  local name = OPCODES[number] or string.format("opcode %d", number)
  tree:add(f.opcode, tvb(5, 1)):append_text(" (" .. name .. (is_reply and " reply)" or " request)"))
  tree:add(f.reply, tvb(5, 1), is_reply)
  tree:add(f.flags, tvb(6, 2))
  tree:add(f.request_id, tvb(8, 8))
  tree:add(is_reply and f.status or f.deadline, tvb(16, 4))
  local crc = tree:add(f.crc, tvb(20, 4))
  if tvb(6, 2):uint() % 2 == 0 then
    local computed = crc32c(tvb)
    if computed then
      local good = computed == tvb(20, 4):uint()
      tree:add(f.crc_good, tvb(20, 4), good):set_generated()
      if not good then crc:add_proto_expert_info(bad_crc) end
    end
  end

  local body = (is_reply and status ~= 0) and failure or (is_reply and reply or request)[number]
  local summary = ""
  if body then
    -- A body shorter than its fixed rows makes the range functions raise an error.
    local ok, told = pcall(body, tvb, tree)
    if ok and told then
      summary = told
    else
      tree:add_proto_expert_info(malformed)
      summary = "[malformed]"
    end
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
