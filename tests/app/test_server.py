"""The page's server: who may connect, from where, and which files anybody gets to see."""

import functools
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import login, paths, quick, server
from app.gate import Gate, name_of
from app.server import CannotServe, Options

quick.prepare()

import gradio as gr  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

HERE = "http://127.0.0.1:7860"
OWNER: dict[str, Any] = {"username": "ann", "password": "correct horse"}


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    root = tmp_path / "work"
    root.mkdir()
    monkeypatch.setenv("LOOM_WORKSPACE", str(root))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    for name in ("LOOM_USERNAME", "LOOM_PASSWORD", "LOOM_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    yield root
    paths.restrict(None)


def page() -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as blocks:
        box, button = gr.Textbox(label="Name"), gr.Button("Greet")
        button.click(lambda name: f"Hello {name}", box, box, api_name="greet")
    return blocks


@functools.cache
def behind() -> Any:
    """The application behind the gate: it does not depend on the options."""
    return server.build(page(), Options()).app


def client(**given: Any) -> TestClient:
    options = Options(**given)
    gate = Gate(behind(), server.known_hosts(options), server.account_of(options, options.server_port))
    return TestClient(gate, base_url=HERE, follow_redirects=False)


def photo(path: Path, size: tuple[int, int] = (40, 20), **how: Any) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 30)).save(path, **how)
    return path


# Who is asking?


def test_the_page_answers_on_loopback_with_armour() -> None:
    answer = client().get("/")
    assert answer.status_code == 200
    assert "gradio" in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "https:" not in answer.headers["content-security-policy"]
    assert "server" not in answer.headers
    script = re.search(r"assets/[\w.-]+\.js", answer.text)
    assert script is not None
    assert "immutable" in client().get(f"/{script[0]}").headers["cache-control"]


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860", "localhost:9000"])
def test_names_of_this_machine_are_answered_also_through_a_tunnel(host: str) -> None:
    assert client().get("/config", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", "127.0.0.1:7860@evil.example", "", "[::1", "192.168.1.5:7860"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/queue/join", "/loom/file?path=/etc/passwd", "/loom/alive"])
def test_other_names_for_this_machine_are_refused(host: str, path: str) -> None:
    answer = client().get(path, headers={"host": host})
    assert answer.status_code == 403
    assert "LOOM_HOSTS" in answer.text


def test_names_can_be_added_for_a_page_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOM_HOSTS", "loom.example, 10.0.0.9 fd00::1")
    assert server.known_hosts(Options()) >= {"loom.example", "10.0.0.9", "fd00::1", "localhost"}
    assert client().get("/config", headers={"host": "loom.example"}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9999", "http://127.0.0.1", "file://"])
def test_requests_of_other_sites_are_refused_whatever_their_method(origin: str) -> None:
    browser = client()
    for answer in (
        browser.post("/gradio_api/run/greet", json={"data": ["x"]}, headers={"origin": origin}),
        browser.get("/config", headers={"origin": origin}),
        browser.options("/config", headers={"origin": origin, "access-control-request-method": "POST"}),
    ):
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("headers", [{}, {"origin": HERE}, {"origin": HERE, "sec-fetch-site": "same-origin"}])
def test_the_page_itself_and_programs_may_call(headers: dict[str, str]) -> None:
    answer = client().post("/gradio_api/run/greet", json={"data": ["Ann"]}, headers=headers)
    assert answer.json()["data"] == ["Hello Ann"]


def test_a_link_from_elsewhere_opens_the_page_but_pictures_are_not_handed_to_other_sites(tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png")
    elsewhere = {"sec-fetch-site": "cross-site"}
    assert client().get("/", headers={**elsewhere, "sec-fetch-mode": "navigate"}).status_code == 200
    blind = {**elsewhere, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert client().get(f"/loom/file?path={picture}", headers=blind).status_code == 403
    neighbour = {**blind, "sec-fetch-site": "same-site"}  # another program's page on another port
    assert client().get(f"/loom/file?path={picture}", headers=neighbour).status_code == 403


@pytest.mark.parametrize(
    "path", ["/gradio_api/proxy=https://x.hf.space/", "/gradio_api/file=http://evil.example/a", "/gradio_api/vibe-code/", "//gradio_api//dev/reload", "/monitoring"],
)  # fmt: skip
def test_doors_of_gradio_that_nobody_needs_are_closed(path: str) -> None:
    assert client().get(path).status_code == 404


@pytest.mark.parametrize(
    ("host", "name"),
    [("a.b:80", "a.b"), ("A.B.", "a.b"), ("[FD00:0::1]:1", "fd00::1"), ("x:y", ""), ("[::1]junk", ""), ("1.2.3.4", "1.2.3.4")],
)
def test_the_name_in_a_host_header(host: str, name: str) -> None:
    assert name_of(host) == name


# The login.

DOORS = [
    ("GET", "/"), ("GET", "/config"), ("GET", "/theme.css"), ("GET", "/assets/x.js"), ("GET", "/static/x"),
    ("GET", "/gradio_api/info"), ("GET", "/gradio_api/file=/etc/passwd"), ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/run/greet"), ("GET", "/gradio_api/queue/data"),
    ("GET", "/gradio_api/startup-events"), ("GET", "/gradio_api/heartbeat/x"), ("GET", "/robots.txt"),
    ("POST", "/gradio_api/component_server/"), ("GET", "/loom/file"), ("GET", "/loom/thumb"), ("GET", "/nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_nothing_is_answered_before_the_login(method: str, path: str) -> None:
    answer = client(**OWNER).request(method, path)
    assert answer.status_code == 401
    assert answer.json() == {"detail": "Log in first."}


def enter(browser: TestClient, then: str = "/", **fields: str) -> Any:
    return browser.post("/loom/login", data={**OWNER, "then": then, **fields}, headers={"origin": HERE})


def test_the_login_opens_everything_and_the_logout_closes_it() -> None:
    browser = client(**OWNER)
    asked = browser.get("/?a=1", headers={"accept": "text/html"})
    assert asked.status_code == 401
    assert 'value="/?a=1"' in asked.text
    answer = enter(browser, then="/?a=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?a=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert OWNER["password"] not in cookie
    assert browser.get("/config").status_code == 200
    assert browser.post("/gradio_api/run/greet", json={"data": ["Ann"]}).json()["data"] == ["Hello Ann"]
    browser.get("/loom/logout")
    assert browser.get("/config").status_code == 401


@pytest.mark.parametrize("then", ["//evil.example", "https://evil.example", "/\\evil.example", "/\r\nset-cookie: a=b", "x"])
def test_the_login_leads_nowhere_else(then: str) -> None:
    assert enter(client(**OWNER), then=then).headers["location"] == "/"


@pytest.mark.parametrize("wrong", [{"password": "wrong"}, {"username": "bob"}, {"password": ""}, {"username": "", "password": ""}])
def test_a_wrong_login_is_refused(wrong: dict[str, str]) -> None:
    browser = client(**OWNER)
    answer = enter(browser, **wrong)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "wrong" in answer.text


def test_guessing_is_slowed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = client(**OWNER)
    now = [1000.0]
    monkeypatch.setattr(login.time, "monotonic", lambda: now[0])
    assert [enter(browser, password=f"guess {n}").status_code for n in range(7)] == [401] * 5 + [429] * 2
    assert enter(browser).status_code == 429  # the right one, too
    now[0] += 1.1
    assert enter(browser, password="guess").status_code == 401
    now[0] += 1.1
    assert enter(browser).status_code == 429  # the wait has doubled
    now[0] += 1.0
    assert enter(browser).status_code == 303
    assert enter(browser, password="typo").status_code == 401  # and is forgotten after a right one


def test_sessions_outlive_a_restart_but_not_a_new_password_nor_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    account = login.Account("ann", "correct horse", 7860)
    cookie = f"other=1; {account.cookie}={account.session()}"
    assert account.knows(cookie)
    assert login.Account("ann", "correct horse", 7860).knows(cookie)
    assert not login.Account("ann", "another horse", 7860).knows(cookie)
    assert not login.Account("bob", "correct horse", 7860).knows(cookie)
    later = time.time() + (login.DAYS + 1) * 86400
    until, nonce, signature = account.session().split(".")
    for forged in ("", "x", f"{int(until) + 1}.{nonce}.{signature}", f"{until}.{nonce}.", f"{until}.{nonce}.é"):
        assert not account.knows(f"{account.cookie}={forged}")
    monkeypatch.setattr(login.time, "time", lambda: later)
    assert not account.knows(cookie)


def test_a_login_of_another_site_is_refused() -> None:
    answer = client(**OWNER).post("/loom/login", data=OWNER, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403


# Which address?


@pytest.mark.parametrize("listen", ["0.0.0.0", "::", "192.168.1.5", "gpubox.example", ""])
def test_another_address_needs_a_login(listen: str) -> None:
    incomplete: list[dict[str, Any]] = [{}, {"username": "ann"}, {"password": "x"}]
    for given in incomplete:
        with pytest.raises(CannotServe, match="--username and --password"):
            server.check(Options(listen=listen, **given))
    server.check(Options(listen=listen, **OWNER))


def test_a_public_link_needs_a_login() -> None:
    with pytest.raises(CannotServe, match="public link needs"):
        server.check(Options(share=True))
    assert not Options(share=True).local


@pytest.mark.parametrize("listen", ["127.0.0.1", "localhost", "::1", "127.5.5.5", "[::1]"])
def test_loopback_needs_none(listen: str) -> None:
    server.check(Options(listen=listen))
    assert Options(listen=listen).local


def test_half_a_login_and_missing_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="both"):
        server.check(Options(username="ann"))
    with pytest.raises(CannotServe, match="no such folder"):
        server.check(Options(allow=(str(tmp_path / "missing"),)))


def test_options_come_from_the_command_line_and_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOM_USERNAME", "ann")
    monkeypatch.setenv("LOOM_PASSWORD", "secret word")
    words = ["--listen", "--server_port", "0", "--allow", str(tmp_path), "--inbrowser", "--workspace", str(tmp_path / "w")]
    options = server.read_options(words)
    assert options == Options("0.0.0.0", 0, "ann", "secret word", False, True, (str(tmp_path),))
    assert os.environ["LOOM_WORKSPACE"] == str(tmp_path / "w")
    assert "secret" not in repr(options)


def test_the_names_of_a_listening_machine_are_its_own() -> None:
    names = server.known_hosts(Options(listen="0.0.0.0", **OWNER))
    assert {"localhost", "127.0.0.1", socket.gethostname().lower()} <= names
    assert not names & {"", "0.0.0.0", "::", "evil.example"}


# The port.


def test_a_port_in_use_says_by_whom_and_offers_another() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotServe) as refused:
            server.bind("127.0.0.1", port)
    text = str(refused.value)
    assert f"Port {port} is used by " in text
    assert f"(process {os.getpid()})" in text or "another program" in text
    assert "--server_port " in text


@pytest.mark.parametrize("address", ["203.0.113.7", "no-such-host.invalid"])
def test_an_address_of_another_machine_is_named(address: str) -> None:
    with pytest.raises(CannotServe, match="not an address of this machine"):
        server.bind(address, 0)


def test_ports_are_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("70000", "-1", "http"):
        with pytest.raises(SystemExit) as exit:
            server.read_options([f"--server_port={wrong}"])
        assert exit.value.code == 2
    assert "0 to 65535" in capsys.readouterr().err


TINY_PAGE = """
import sys
from app import server

def page(options):
    import gradio as gr
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.Textbox(label="Name")
    return blocks, {}

try:
    sys.exit(server.serve(server.read_options(sys.argv[1:]), page))
except server.CannotServe as reason:
    print(reason); sys.exit(1)
"""


def opened(*words: str) -> "tuple[subprocess.Popen[str], int]":
    child = subprocess.Popen([sys.executable, "-c", TINY_PAGE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line.startswith("LoRA Loom is open at http://"), line + child.stdout.read()
    return child, int(line.rsplit(":", 1)[1])


def ask(port: int, path: str, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode("latin-1")
    connection.close()
    return answer.status, text


def test_a_real_server_starts_answers_refuses_and_ends_cleanly() -> None:
    child, port = opened("--server_port", "0")
    try:
        assert ask(port, "/")[0] == 200
        assert ask(port, "/loom/alive") == (200, '{"name":"LoRA Loom"}')
        assert ask(port, "/", Host="evil.example")[0] == 403
        assert ask(port, "/", Origin="https://evil.example")[0] == 403
        second = subprocess.run([sys.executable, "-m", "app", "--server_port", str(port)], capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert f"LoRA Loom is open already at http://127.0.0.1:{port}" in second.stderr
        assert "--server_port" in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        child.terminate()
        said, _ = child.communicate(timeout=30)
    if os.name != "nt":
        assert child.returncode == 0
        assert "The page is closed" in said
        assert "Traceback" not in said


def test_a_server_for_other_machines_wants_the_login_and_limits_the_folders(work: Path, tmp_path: Path) -> None:
    secret, mine = photo(tmp_path / "home" / "secret.png"), photo(tmp_path / "mine" / "a.png")
    words = ["--listen", "0.0.0.0", "--server_port", "0", "--username", "ann", "--password", "correct horse"]
    child, port = opened(*words, "--allow", str(mine.parent))
    try:
        assert ask(port, "/")[0] == 401
        session = login.Account("ann", "correct horse", port)
        cookie = f"{session.cookie}={session.session()}"
        assert ask(port, "/", Cookie=cookie)[0] == 200
        assert ask(port, f"/loom/thumb?path={mine}", Cookie=cookie)[0] == 200
        assert ask(port, f"/loom/file?path={secret}", Cookie=cookie)[0] == 403
        assert ask(port, f"/gradio_api/file={secret}", Cookie=cookie)[0] == 403
    finally:
        child.kill()
        child.communicate(timeout=30)


def test_refusing_takes_no_second_and_changes_nothing(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "app", "--listen", "0.0.0.0", "--workspace", str(tmp_path / "new")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("(or LOOM_USERNAME and LOOM_PASSWORD).")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "new").exists()


# The files.


def fetch(path: object, route: str = "file", **query: Any) -> Any:
    return client().get(f"/loom/{route}", params={"path": str(path), **query})


def limit(*folders: Path) -> None:
    paths.restrict([str(folder) for folder in folders])


def test_pictures_are_served_and_kept_by_the_browser(tmp_path: Path) -> None:
    picture = photo(tmp_path / "päth with 'quotes' 🙂" / "a b.PNG")
    answer = fetch(picture)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content == picture.read_bytes()
    assert "attachment" not in answer.headers.get("content-disposition", "")
    again = client().get("/loom/file", params={"path": str(picture)}, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    photo(picture, (41, 20))
    assert fetch(picture).headers["etag"] != answer.headers["etag"]
    assert "immutable" in fetch(picture, v=7).headers["cache-control"]
    assert "no-cache" in answer.headers["cache-control"]


def test_results_are_downloads(work: Path) -> None:
    file = work / "runs" / "cat.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    answer = fetch(file)
    assert answer.content == b"weights"
    assert answer.headers["content-disposition"] == 'attachment; filename="cat.safetensors"'


@pytest.mark.parametrize("name", ["a.html", "a.svg", "a.py", "id_rsa", ".env", "a.png.exe", "a.txt", "a.json"])
def test_other_kinds_of_files_are_not_served(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("secret")
    answer = fetch(tmp_path / name)
    assert answer.status_code == 403
    assert "secret" not in answer.text


def test_texts_are_served_from_the_workspace_alone(work: Path) -> None:
    (work / "log.txt").write_text("step 1")
    answer = fetch(work / "log.txt")
    assert answer.text == "step 1"
    assert "attachment" in answer.headers["content-disposition"]


def test_outside_the_allowed_folders_nothing_is_served(work: Path, tmp_path: Path) -> None:
    inside, outside = photo(work / "runs" / "a.png"), photo(tmp_path / "elsewhere" / "b.png")
    named = photo(tmp_path / "named" / "c.png")
    beside = photo(tmp_path / "named-beside" / "d.png")
    limit(named.parent)
    assert fetch(inside).status_code == fetch(named).status_code == 200
    for path in (outside, beside, "/etc/passwd", "/etc/nothing", work / ".." / "elsewhere" / "b.png"):
        for route in ("file", "thumb"):
            answer = fetch(path, route)
            assert answer.status_code == 403
            assert "outside" in answer.text


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_out_of_the_allowed_folders_are_not_followed(work: Path, tmp_path: Path) -> None:
    outside = photo(tmp_path / "elsewhere" / "b.png")
    (work / "link.png").symlink_to(outside)
    (work / "door").symlink_to(outside.parent)
    (work / "key.png").symlink_to("/etc/passwd")
    limit()
    for path in (work / "link.png", work / "door" / "b.png", work / "key.png"):
        assert fetch(path).status_code == fetch(path, "thumb").status_code == 403
    paths.restrict(None)
    assert fetch(work / "key.png").status_code == 403  # its real name counts
    assert fetch(work / "link.png").status_code == 200


@pytest.mark.parametrize("path", ["", "a.png", "../a.png", "~/a.png", "\0", "file:///a.png", "/nothing/here.png"])
def test_what_is_no_full_path_of_a_file_is_refused(path: str) -> None:
    assert fetch(path).status_code in (400, 403, 404)
    assert fetch(path, "thumb").status_code in (400, 403, 404)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert fetch(tmp_path / "pipe.png").status_code == 404


# The page's process.


def test_the_page_never_loads_torch_and_gradio_writes_no_stubs() -> None:
    code = (
        "import sys\nfrom app import quick, server\nquick.prepare()\nfrom app.page import build_page, mount_arguments\n"
        "server.build(build_page(server.Options()), server.Options(), **mount_arguments())\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft', 'accelerate', 'onnxruntime'} & set(sys.modules)))\n"
        "import gradio.component_meta as meta\nprint(meta.create_or_modify_pyi.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["[]", "app.quick"], done.stderr


def test_many_pages_can_be_served_at_once() -> None:
    """One slow handler must not hold up the others."""
    started, release = threading.Event(), threading.Event()

    def slow(name: str) -> str:
        started.set()
        release.wait(20)
        return name

    with gr.Blocks(analytics_enabled=False) as blocks:
        box = gr.Textbox()
        box.submit(slow, box, box, api_name="slow", queue=False)
    browser = TestClient(server.build(blocks, Options()), base_url=HERE)
    waiting = threading.Thread(target=browser.post, args=("/gradio_api/run/slow",), kwargs={"json": {"data": ["x"]}})
    waiting.start()
    assert started.wait(20)
    assert browser.get("/config").status_code == 200
    release.set()
    waiting.join(20)
