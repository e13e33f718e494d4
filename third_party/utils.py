"""Public names of the ranks, under the file name the released programs use (FD, SAT: `third_party/utils.py`)."""
from machine.versions import library_versions, source_version
from ranks.command_line import OneLineParser, mode_parser, run_mode
from ranks.cores import threads_for
from ranks.end import end_by, fail, fail_at_once, reason
from ranks.gather import gather_rows, gather_texts, largest_over_ranks, sum_over_ranks, together
from ranks.launched import Ranks, launched_rank
from ranks.sessions import cpu_session_config, session_config
from ranks.start import start_ranks

__all__ = ['OneLineParser', 'Ranks', 'cpu_session_config', 'end_by', 'fail', 'fail_at_once', 'gather_rows',
           'gather_texts', 'largest_over_ranks', 'launched_rank', 'library_versions', 'mode_parser', 'reason',
           'run_mode', 'session_config', 'source_version', 'start_ranks', 'sum_over_ranks', 'threads_for', 'together']
