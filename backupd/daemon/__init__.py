"""What systemd runs: service, schedule, watcher, job queue, control socket."""
