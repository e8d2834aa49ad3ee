"""Which Ray is joined or started."""

import os
import socket
import subprocess
import sys

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
pytest.importorskip("ray")

from jointrt.errors import DeviceError
from jointrt.fleet.cluster import ray_cluster


def test_ray_starts_by_itself_beside_one_that_runs_on_the_machine():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    script = (
        "from jointrt.fleet.cluster import ray_cluster\n"
        "with ray_cluster(None, 5) as ray: print(ray.cluster_resources()['CPU'])"
    )
    try:
        # What Ray would join if it were not told otherwise.
        environment = {**os.environ, "RAY_ADDRESS": cluster.address}
        run = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    finally:
        cluster.shutdown()
    assert run.returncode == 0 and run.stdout.strip() == "5.0", run.stderr


def test_where_nobody_listens_is_told_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for address, said in (
        (f"127.0.0.1:{port}", f"no Ray cluster answers at 127.0.0.1:{port}: .*refused"),
        (f"ray://127.0.0.1:{port}", f"at ray://127.0.0.1:{port}: .*refused"),
        ("no-such-host.invalid", "at no-such-host.invalid:6379: "),
        ("host:name", "is no address of a Ray cluster: expected auto, HOST or HOST:PORT"),
    ):
        with pytest.raises(DeviceError, match=said) as caught, ray_cluster(address, 1):
            pass
        assert "\n" not in str(caught.value)
