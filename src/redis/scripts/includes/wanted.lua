-- Stands before scripts that read entries for several handlers.

-- What is wanted, from JSON: the place of each version and type, and how many entries of each place are lacking.
local function wantedOf(text)
  return text and cjson.decode(text)
end

-- Counts an entry: true where its handler lacks it, false where it lacks none, nothing where no handler takes it. Then its place.
local function counts(wanted, fields)
  local version, kind = '1', ''
  for n = 1, #fields, 2 do
    if fields[n] == 'type' then kind = fields[n + 1] end
    if fields[n] == 'schemaversion' then version = fields[n + 1] end
  end
  local place = wanted.places[version .. ' ' .. kind]
  if not place then return nil end
  local left = wanted.lacks[place + 1]
  wanted.lacks[place + 1] = left - 1
  return left > 0, place
end
