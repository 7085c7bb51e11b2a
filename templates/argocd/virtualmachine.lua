-- How a VirtualMachine is, for Argo CD.
local status = obj.status
if status == nil or status.printableStatus == nil then
  return { status = "Progressing", message = "The controller has not seen it yet" }
end
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The controller has not seen the last change yet" }
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  if condition.status == "True" or condition.type == "Ready" then
    conditions[condition.type] = condition
  end
end

-- What it is doing, and what there is to say about that.
local word = status.printableStatus
local function is(health, condition)
  local message = word
  if condition ~= nil and condition.message ~= nil and condition.message ~= "" then
    message = message .. ": " .. condition.message
  end
  return { status = health, message = message }
end

if word == "Running" then
  if conditions.Ready ~= nil and conditions.Ready.status == "True" then
    return is("Healthy", conditions.RestartRequired)
  end
  return is("Progressing", conditions.Ready)
end
if word == "Paused" then
  return is("Suspended", conditions.Paused)
end
if word == "Stopped" then
  local strategy = obj.spec.runStrategy
  if status.phase == "Failed" then
    return is("Degraded", conditions.Failure)
  end
  if status.phase == "Succeeded" and (strategy == "Once" or strategy == "RerunOnFailure") then
    -- It was to do something, and has done it.
    return is("Healthy")
  end
  return is("Suspended")
end
local underway = { Starting = true, Stopping = true, Terminating = true, ErrorUnschedulable = true }
if underway[word] then
  return is("Progressing", conditions.Failure or conditions.Ready)
end
return is("Degraded", conditions.Failure or conditions.Ready)
