-- wrk's request for profile.py: a chat of 470 bytes.
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
wrk.body = '{"model":"bench","messages":[{"role":"system","content":"You are a helpful assistant."},{"role":"user",' ..
  '"content":"' .. string.rep("Count to ten, please. ", 12) .. '"}],"max_tokens":64,"temperature":0.7}'
