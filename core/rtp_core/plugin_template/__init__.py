"""What `rtp plugin new` writes: a plugin that installs, lists as AVAILABLE and passes its first check unedited.

The files under `common`, and `pure` or `native`, are the template; `project` fills them in.
"""
