"""Those of Django's tests that do not apply to a backend with workers, each with its reason."""

DUMMY = "test_dummy_backend.DummyBackendTestCase"
IMMEDIATE = "test_immediate_backend.ImmediateBackendTestCase"

NOT_APPLICABLE = {
    f"{DUMMY}.test_refresh_result": "changes the Python object that the dummy backend keeps in its list; ours keeps bytes",
    f"{DUMMY}.test_refresh_result_async": "likewise",
    f"{IMMEDIATE}.test_throws_keyboard_interrupt": "the interrupt of whom? the caller is not the process that runs the task",
    f"{IMMEDIATE}.test_cannot_get_result": "asserts that results cannot be retrieved; with jobs they can",
    f"{IMMEDIATE}.test_cannot_refresh_result": "likewise",
    f"{IMMEDIATE}.test_cannot_pass_run_after": "asserts that run_after is refused; with jobs it is kept",
}
