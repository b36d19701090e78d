"""Every check fails on a bad sample and passes a good one."""

import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import cmake_sources
import includes
import text_rules
from tree import Tree

TABLE = "common:\ncommon/config: common proto\nkernels: common\nkernels/cpu: kernels\nkernels/cuda: kernels\n"


class TidyTest(unittest.TestCase):
    def tree(self, files):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for path, text in files.items():
            target = Path(folder.name) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return Tree(folder.name)

    def includes(self, table=TABLE, **files):
        named = {path.replace("__", "/").replace("_dot_", "."): text for path, text in files.items()}
        base = {
            "tests/tidy/include_edges.txt": table,
            "src/common/a.h": "",
            "src/kernels/k.h": "",
            "src/kernels/cpu/c.h": "",
        }
        return includes.check(self.tree(base | named))

    def expect(self, problems, *parts):
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_allowed_edges_pass(self):
        self.assertEqual(self.includes(src__kernels__x_dot_cc='#include "common/a.h"\n#include <vector>\n'), [])

    def test_forbidden_edge_is_found_with_its_line(self):
        problems = self.includes(src__common__x_dot_cc='\n#include "kernels/k.h"\n')
        self.expect(problems, "src/common/x.cc:2:", "common may not include kernels")

    def test_siblings_do_not_see_each_other(self):
        self.expect(
            self.includes(src__kernels__cuda__x_dot_cc='#include "kernels/cpu/c.h"'), "may not include kernels/cpu"
        )

    def test_root_row_does_not_cover_its_subfolders(self):
        self.expect(
            self.includes(src__kernels__x_dot_cc='#include "kernels/cpu/c.h"'), "kernels may not include kernels/cpu"
        )

    def test_generated_code_counts_as_proto(self):
        line = '#include "fathom/config.pb.h"'
        self.assertEqual(self.includes(src__common__config_dot_cc=line), [])
        self.expect(self.includes(src__common__x_dot_cc=line), "common may not include proto")

    def test_tests_may_include_anything_but_are_not_included(self):
        self.assertEqual(self.includes(src__common__x_test_dot_cc='#include "kernels/k.h"'), [])
        files = {"src__common__x_testing_dot_h": "", "src__common__x_dot_cc": '#include "common/x_testing.h"'}
        self.expect(self.includes(**files), "for tests only")

    def test_missing_relative_and_bracketed_includes_are_found(self):
        self.expect(self.includes(src__common__x_dot_cc='#include "common/gone.h"'), "not under src/")
        self.expect(self.includes(src__common__x_dot_cc='#include "a.h"'), "from the root of src/")
        self.expect(self.includes(src__common__x_dot_cc="#include <common/a.h>"), "with quotes")

    def test_device_code_sees_no_heavy_headers(self):
        self.expect(self.includes(src__kernels__cuda__x_dot_cu='#include "absl/status/status.h"'), "device code")
        self.assertEqual(
            self.includes(src__kernels__cuda__x_dot_cu='#include <cuda_bf16.h>\n#include "kernels/k.h"'), []
        )

    def test_folder_without_row_is_found(self):
        self.expect(self.includes(src__other__x_dot_cc=""), "has no row")

    def test_bad_tables_are_found(self):
        self.expect(self.includes(table="common\n"), "line 1")
        self.expect(self.includes(table=TABLE + "text: nowhere\n"), "nowhere")
        self.expect(self.includes(table=TABLE + "a: b\nb: a\n"), "cycle", "a -> b -> a")

    def test_sources_must_be_named_by_cmake(self):
        good = {"src/x/CMakeLists.txt": "f(SRCS a.cc sub/b.cc)\nforeach(t c)\n f(${t}.cc)\nendforeach()\n"}
        good |= {"src/x/a.cc": "", "src/x/sub/b.cc": "", "src/x/c.cc": ""}
        self.assertEqual(cmake_sources.check(self.tree(good)), [])
        self.expect(cmake_sources.check(self.tree(good | {"src/x/d.cc": ""})), "src/x/d.cc")
        self.expect(cmake_sources.check(self.tree(good | {"src/x/sub/a.cc": ""})), "src/x/sub/a.cc")
        commented = {"src/CMakeLists.txt": "# a.cc\n", "src/a.cc": ""}
        self.expect(cmake_sources.check(self.tree(commented)), "src/a.cc")

    def test_long_files_are_found(self):
        self.assertEqual(text_rules.check_length(self.tree({"src/a.cc": "\n" * 500})), [])
        self.expect(text_rules.check_length(self.tree({"src/a.cc": "\n" * 501})), "501 lines")

    def test_open_work_needs_an_owner(self):
        self.assertEqual(text_rules.check_owners(self.tree({"a.cc": "// TODO(ada): x\n"})), [])
        for bad in ("TODO: x", "FIXME", "TODO() x"):
            self.expect(text_rules.check_owners(self.tree({"a.cc": f"\n// {bad}\n"})), "a.cc:2:")

    def test_places_and_registries_are_found(self):
        for bad in ("/work/main", "/opt/golden-venv", "../shared/x", "issue 12", "https://pypi.org/simple"):
            self.expect(text_rules.check_names(self.tree({"a.md": bad})), "a.md:1:")
        self.assertEqual(text_rules.check_names(self.tree({"a.md": "framework/x, an issue, https://example.org"})), [])

    def test_headers_open_with_pragma_and_purpose(self):
        self.assertEqual(text_rules.check_headers(self.tree({"src/a.h": "#pragma once\n\n// What.\n"})), [])
        self.expect(text_rules.check_headers(self.tree({"src/a.h": "#pragma once\n#include <a>\n"})), "what it is for")
        self.expect(text_rules.check_headers(self.tree({"src/a.h": "// What.\n// More.\n"})), "#pragma once")

    def test_dangerous_coroutines_are_found(self):
        bad = [
            "auto f = [this]() -> net::awaitable<void> { co_return; };",
            "auto f = [&, x](std::function<void()> g) mutable -> awaitable<int> {};",
            "co_await Write(std::string(3, 'x'));",
            "co_await Write(Options{.a = 1}, token);",
            "auto r = co_await Run([&] { return 1; });",
            "co_await Write(absl::StrCat(a, b));",
        ]
        for line in bad:
            self.expect(text_rules.check_coroutines(self.tree({"src/a.cc": f"\n{line}\n"})), "src/a.cc:2:")

    def test_plain_coroutines_pass(self):
        good = [
            "auto f = []() -> net::awaitable<void> { co_return; };",
            "co_await http::async_read(stream, buffer, parser, net::use_awaitable);",
            "auto g = [this](int x) -> int { return x; };",
            "// co_await Write(std::string(3, 'x'));",
            "if (co_await Next(a[0], b)) { x = 1; }",
        ]
        for line in good:
            self.assertEqual(text_rules.check_coroutines(self.tree({"src/a.cc": line})), [], line)

    def test_proto_elements_need_comments(self):
        good = "// A.\nmessage A {\n  // B.\n  map<string, int32> b = 1 [packed = true];\n  reserved 2;\n}\n"
        self.assertEqual(text_rules.check_protos(self.tree({"proto/a.proto": good})), [])
        self.expect(text_rules.check_protos(self.tree({"proto/a.proto": good.replace("  // B.\n", "")})), "b = 1")

    def test_the_runner_fails_for_an_unknown_check(self):
        script = Path(__file__).with_name("run.py")
        done = subprocess.run([sys.executable, "-B", script, "nothing"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 2)
        self.assertIn("unknown check", done.stderr)


if __name__ == "__main__":
    unittest.main()
