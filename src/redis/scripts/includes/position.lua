-- Stands before every script that compares positions, which are four 32-bit numbers in hexadecimal:
-- as strings Lua would compare them by the server's locale, and drop events under da_DK.

local function group(position, from)
  return tonumber(string.sub(position, from, from + 7), 16)
end

local function compare(a, b)
  if a == b then return 0 end
  for _, from in ipairs({1, 10, 18, 27}) do
    local x, y = group(a, from), group(b, from)
    if x ~= y then return x < y and -1 or 1 end
  end
  return 0
end
