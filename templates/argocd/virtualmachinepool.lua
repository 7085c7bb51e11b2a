-- How a VirtualMachinePool is, for Argo CD.
local status = obj.status
if status == nil or status.conditions == nil then
  return { status = "Progressing", message = "The controller has not seen it yet" }
end
if status.observedGeneration ~= obj.metadata.generation then
  return { status = "Progressing", message = "The controller has not seen the last change yet" }
end

local conditions = {}
for _, condition in ipairs(status.conditions) do
  conditions[condition.type] = condition
end
local failure, progress = conditions.Failure, conditions.Progressing

if failure ~= nil and failure.status == "True" then
  return { status = "Degraded", message = failure.message }
end
if progress == nil then
  return { status = "Progressing", message = "The controller has not seen it yet" }
end
if progress.status == "False" then
  return { status = "Degraded", message = progress.message }
end
if progress.reason == "Complete" then
  return { status = "Healthy", message = progress.message }
end
if progress.reason == "Paused" then
  return { status = "Suspended", message = progress.message }
end
return { status = "Progressing", message = progress.message }
