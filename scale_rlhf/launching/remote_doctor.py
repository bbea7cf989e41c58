"""The doctor of a cluster that is reached through its dashboard alone: it runs there as a job, and its report comes back."""

import secrets
import tempfile
import time
from pathlib import Path

from scale_rlhf.config.schema import RunConfig
from scale_rlhf.doctor.facts import Facts
from scale_rlhf.doctor.findings import Finding
from scale_rlhf.doctor.show import from_json
from scale_rlhf.errors import RunError
from scale_rlhf.launching.jobs import JobServer
from scale_rlhf.launching.packing import CONFIG_FILE, pack

SECONDS = 600.0  # for all of it
REPORT = '{"ok": '  # how the report's line begins


def examine_there(server: JobServer, config: RunConfig | None) -> tuple[Facts, list[Finding]]:
    """As doctor.examine.examine. RunError where the doctor itself cannot run there."""
    with tempfile.TemporaryDirectory(prefix="scale-rlhf-doctor-") as place:
        package = pack(config, None, Path(place))
        words = f"exec scale-rlhf doctor{f' {CONFIG_FILE}' if config else ''} --address auto --json"
        sent = {"runtime_env": {"working_dir": str(package.folder)}} if config else {}
        id = server.submit(entrypoint=words, submission_id=f"doctor-{secrets.token_hex(3)}", **sent)
    until = time.monotonic() + SECONDS
    while not (job := server.job(id)).is_over:
        if time.monotonic() > until:
            server.stop(id)
            raise RunError(f"{server.address}: the doctor's job {id} did not end within {SECONDS:g} s; see whether the cluster "
                           "runs anything: ray status, on its head")
        time.sleep(0.5)
    log = server.log(id)
    line = next((line for line in reversed(log.splitlines()) if line.startswith(REPORT)), None)
    if line is None:
        said = "\n".join(log.strip().splitlines()[-5:]) or job.message
        raise RunError(f"{server.address}: the doctor could not run on the cluster's head; is scale-rlhf installed there, and on "
                       f"the PATH that Ray was started with? It said:\n{said}")
    return from_json(line)
