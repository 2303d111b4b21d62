"""The command line of the service: `hostdevd serve`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

# Before gRPC is imported: its C library would write lines of its own beside ours.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from hostdevd import __version__
from hostdevd.app import run
from hostdevd.config import BUILTIN, ConfigError, from_environment
from hostdevd.core.profiles import PROFILES
from hostdevd.ops.logs import configure_logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status: 0 done, 1 failed, 2 usage."""
    given = _parser().parse_args(arguments)
    configure_logs()
    options = {
        "connect": given.connect,
        "listen": given.listen,
        "state_dir": given.state_dir,
        "simulate": given.simulate,
        "sysroot": given.sysroot,
        "reflection": False if given.no_reflection else None,
        "profile": given.profile,
        "policy": given.policy,
        "metrics": given.metrics,
    }
    try:
        config = from_environment(options, given.config)
    except ConfigError as error:
        print(f"hostdevd: {error}", file=sys.stderr)  # noqa: T201  one clear line
        return 1
    return run(config)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hostdevd", description="Hands a host's devices to virtual machines and takes them back."
    )
    parser.add_argument("--version", action="version", version=f"hostdevd {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the service", description="Run the service until SIGTERM.")
    serve.add_argument("--config", metavar="FILE", help="TOML file of options")
    serve.add_argument("--connect", metavar="URI", help="libvirt connection (default qemu:///system)")
    serve.add_argument(
        "--listen",
        metavar="ADDRESS",
        action="append",
        help="unix:/path or a loopback host:port; may be given again (default unix:/run/hostdevd/hostdevd.sock)",
    )
    serve.add_argument("--state-dir", metavar="DIR", help="what survives a restart (default /var/lib/hostdevd)")
    serve.add_argument(
        "--simulate",
        metavar="FILE",
        nargs="?",
        const=BUILTIN,
        help="serve a simulated host: libvirt's test-driver node file, or the built-in one",
    )
    serve.add_argument("--sysroot", metavar="DIR", help="root below which /sys and /proc are read (default /)")
    serve.add_argument("--profile", choices=sorted(PROFILES), help="PCI classes that may be assigned (default default)")
    serve.add_argument(
        "--policy", metavar="FILE", help="TOML file of rules that allow and deny devices; read again on SIGHUP"
    )
    serve.add_argument("--metrics", metavar="ADDRESS", help="serve Prometheus metrics at this loopback host:port")
    serve.add_argument("--no-reflection", action="store_true", help="switch gRPC reflection off")
    return parser


if __name__ == "__main__":
    sys.exit(main())
