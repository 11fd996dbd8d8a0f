"""Links a company's whole history. Can be interrupted and run again: what was done is stored."""

from app.account import Account
from app.ksef.client import SESSION_TYPES
from app.services import outages
from app.services.operators.progress import Progress, Summary
from app.services.sessions.check import check_session


def link_history(account: Account, progress: Progress) -> Summary:
    """Check every session in KSeF's own list of the company's sessions, which links its rows."""
    outages.refuse_if_simulated(account)
    summary = Summary()
    for session_type in SESSION_TYPES:
        for session in account.ksef.all_sessions(session_type):
            with summary.one(session.reference_number):
                check_session(account, session.reference_number)
            progress(summary.seen, None)
    return summary
