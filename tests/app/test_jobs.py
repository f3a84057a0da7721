"""A job tells its progress, gives its result or its error, and stops when nobody listens any more."""

import threading
import time

import pytest

from omni123_hf.app.jobs import Job, JobCancelled


def finish(steps):
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return seen, end.value


def test_progress_and_the_result():
    def work(job: Job) -> int:
        job.stage("reading")
        time.sleep(0.05)
        for step in range(1, 4):
            job.on_step(None, step, 3, {"modality": "image"})
            time.sleep(0.03)
        job.on_extraction(5, 8)
        time.sleep(0.05)
        return 7

    seen, result = finish(Job().run(work, interval=0.01))
    assert result == 7
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages[-3:] == ["reading", "image tokens", "surface"]
    assert seen[-1].to_dict() == {"stage": "surface", "done": 5, "total": 8}


def test_an_error_of_the_work_is_raised_where_it_is_followed():
    def work(job: Job) -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        finish(Job().run(work, interval=0.01))


@pytest.mark.parametrize("how", ["close", "forget", "cancel"])
def test_a_job_that_nobody_follows_stops_at_its_next_callback(how):
    stopped = threading.Event()

    def work(job: Job) -> None:
        try:
            while True:
                time.sleep(0.01)
                job.on_step(None, 1, 100, {"modality": "shape"})
        except JobCancelled:
            stopped.set()
            raise

    job = Job()
    steps = job.run(work, interval=0.01)
    next(steps)
    if how == "close":
        steps.close()
    elif how == "forget":
        del steps
    else:
        job.cancel()
        with pytest.raises(JobCancelled):
            finish(steps)
    assert stopped.wait(5)
