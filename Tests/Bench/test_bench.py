"""The parts of the benchmark that need no machine: parsing, medians and ratios, tables, charts.

    python3 -B -m unittest discover -s Tests/Bench
"""

import unittest
import xml.dom.minidom

import bench
import charts
import datapath
import document
import figures
import latency
import procfs
import programs
import rows
import tables
import tcp
import testpmd

FORWARDED = """
  ---------------------- Forward statistics for port 0  ----------------------
  RX-packets: 0              RX-dropped: 0             RX-total: 0
  TX-packets: 300            TX-dropped: 100           TX-total: 400
  TX-bursts : 450331 [46% of 0 pkts + 54% of 32 pkts]
  ----------------------------------------------------------------------------

  +++++++++++++++ Accumulated forward statistics for all ports+++++++++++++++
  RX-packets: 0              RX-dropped: 0             RX-total: 0
  TX-packets: 300            TX-dropped: 100           TX-total: 400
  ++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++++

  CPU cycles/packet=26.00 (total cycles=7800 / total txonly packets=300) at 2600 MHz Clock
"""

HELP = """  --poll <mode>           How workers wait.
  --disable-offload <list>
                          What the guest shall do itself: a list of csum, tso
                          and uso.
        csum is the checksum.
  --log-level <level>     Least important lines: gro is none.
"""

SMAPS = """00400000-00500000 r-xp 00000000 08:01 77   /usr/bin/daemon
Rss:                 512 kB
7f0000000000-7f0010000000 rw-s 00000000 00:0f 99   /memfd:nohuge (deleted)
Rss:                4096 kB
7f1000000000-7f1000200000 rw-p 00000000 00:00 0
Rss:                2048 kB
7f2000000000-7f2000200000 rw-p 00000000 00:00 0    /anon_hugepage (deleted)
Rss:                   0 kB
Private_Hugetlb:    2048 kB
"""


def run(row, contender, number, **values):
    return {"row": row.name, "contender": contender, "round": number, **values}


class Parsing(unittest.TestCase):
    def test_forward_statistics(self):
        found = testpmd.forwarded(FORWARDED)
        self.assertEqual((found["transmitted"], found["refused"]), (300, 100))
        self.assertEqual(found["refused_share"], 0.25)
        self.assertEqual(found["empty_TX_share"], 0.46)
        self.assertEqual(found["busy_nanoseconds"], 3000)
        self.assertNotIn("empty_RX_share", found)

    def test_bursts_without_empty_ones(self):
        self.assertEqual(testpmd.empty_percent("1% of 8 pkts + 99% of 32 pkts"), 0)

    def test_counters_of_the_daemon(self):
        found = programs.counters(
            "x: info: ready\nx: counters: transmit 0: packets 7, bytes 9, calls 0\n"
            "x: counters: null: queue 0: dropped_frames 3\n")
        self.assertEqual(found["transmit 0"], {"packets": 7, "bytes": 9, "calls": 0})
        self.assertEqual(found["null: queue 0"], {"dropped_frames": 3})

    def test_times_of_a_process_with_a_strange_name(self):
        fields = "S " + " ".join(str(n) for n in range(4, 30))
        self.assertEqual(procfs.parse_stat(f"7 (a) b) {fields}"),
                         (14 / procfs.TICKS, 15 / procfs.TICKS))

    def test_wakeups_of_threads_that_come_and_go(self):
        self.assertEqual(procfs.wakeups({"1": 5, "2": 9}, {"1": 8, "3": 2}), 5)

    def test_memory_is_divided(self):
        guest = SMAPS.splitlines(True)
        parts = procfs.memory(SMAPS, "".join(guest[2:4]), {2 << 20})
        self.assertEqual(parts, {"guest": 4096 << 10, "frames": 4096 << 10, "rest": 512 << 10})

    def test_result_of_the_latency_driver(self):
        self.assertEqual(latency.parse('a line\n{"samples": 3,\n "p50_ns": 7}\n')["p50_ns"], 7)
        with self.assertRaises(programs.Failure):
            latency.parse("nothing")

    def test_cost_without_a_counter_of_idle_time_is_a_bound(self):
        before = (1.0, {"transmit 0": {"packets": 7}, "worker 0": {}})
        after = (2.0, {"transmit 0": {"packets": 1007}, "worker 0": {}})
        self.assertEqual(datapath.busy(before, after, "transmit"),
                         {"busy_ns": 1e6, "busy_is_bound": True})
        before[1]["worker 0"]["idle_ns"] = 100
        after[1]["worker 0"]["idle_ns"] = 600000100
        self.assertEqual(datapath.busy(before, after, "transmit"),
                         {"busy_ns": 4e5, "busy_is_bound": False})
        self.assertEqual(datapath.busy(before, after, "receive"), {})


class Streams(unittest.TestCase):
    row = rows.tcp("transmit")

    def test_options_that_a_daemon_has(self):
        self.assertTrue(tcp.knows(HELP, "--disable-offload=csum,tso,uso"))
        self.assertFalse(tcp.knows(HELP, "--disable-offload=gro"))
        self.assertFalse(tcp.knows(HELP, "--bulk-lane=off"))

    def test_payload_is_what_the_far_end_got_or_what_was_acknowledged(self):
        line = "0 0 10.77.0.1:5201 10.77.0.2:4 cubic bytes_acked:{} bytes_received:{} segs\n"
        text = line.format(5, 1000) + line.format(7, 30)
        self.assertEqual(tcp.payload(text, "transmit"), 1030)
        self.assertEqual(tcp.payload(text, "receive"), 12)

    def test_every_daemon_has_its_options(self):
        for case, contenders in rows.TCP.items():
            for contender in set(contenders) - {"testpmd", "kernel"}:
                self.assertIn((case, contender), tcp.OPTIONS)

    def test_a_table_compares_with_each_and_says_who_is_absent(self):
        runs = []
        for number in (1, 2):
            runs += [run(self.row, "daemon", number, gbit_per_cpu=20.0 * number),
                     run(self.row, "kernel", number, gbit_per_cpu=10.0 * number)]
        summary = figures.summarize(self.row, runs, {"lane-off": "no --bulk-lane"})
        self.assertEqual(summary["against"]["kernel"]["gbit_per_cpu"]["median"], 2)
        lines = tables.parts([summary])["tcp"].splitlines()
        self.assertIn("| no --bulk-lane |", lines[4])
        self.assertIn("| kernel: tap, bridge | - | 2.00 (2.00-2.00) |", lines[-1])
        self.assertIn("performance-tcp.svg", charts.charts([summary]))


class Figures(unittest.TestCase):
    row = rows.wire("transmit", "nic0", 64)

    def summary(self, limits=("back-end", "back-end"), **more):
        runs = []
        for number, (ours, theirs) in enumerate(((2e6, 1e6), (9e6, 3e6), (4e6, 2e6)), 1):
            runs += [
                run(self.row, "daemon", number, packets_per_second=ours, cpu_ns=700,
                    limited_by=limits[0], **more),
                run(self.row, "testpmd", number, packets_per_second=theirs, cpu_ns=900,
                    limited_by=limits[1], **more),
                run(self.row, "floor", number, packets_per_second=9e6, cpu_ns=500 + number),
            ]
        return figures.summarize(self.row, runs)

    def test_ratios_are_of_neighbours(self):
        ratio = self.summary()["ratios"]["daemon"]["packets_per_second"]
        self.assertEqual((ratio["median"], ratio["minimum"], ratio["maximum"]), (2, 2, 3))

    def test_the_floor_is_subtracted_from_both(self):
        ratio = self.summary()["ratios"]["daemon"]["above_floor"]
        self.assertAlmostEqual(ratio["median"], (700 - 502) / (900 - 502))

    def test_rates_are_compared_where_back_ends_limit_them(self):
        self.assertEqual(self.summary()["verdict"]["bound"], "")
        self.assertEqual(self.summary(("driver", "back-end"))["verdict"]["bound"], "at least")
        self.assertEqual(self.summary(("back-end", "driver"))["verdict"]["bound"], "at most")

    def test_elsewhere_busy_time_is_compared(self):
        verdict = self.summary(("driver", "driver"), busy_ns=50)["verdict"]
        self.assertEqual((verdict["compared"], verdict["ratio"]["median"]),
                         ("busy CPU per packet", 1))

    def test_runs_that_failed_leave_a_row(self):
        summary = figures.summarize(self.row, [run(self.row, "daemon", 1, packets_per_second=1.0)])
        self.assertIsNone(summary["verdict"])
        self.assertIn("`transmit-veth-64`", tables.parts([summary])["wire"])

    def test_rounds_alternate(self):
        self.assertEqual(bench.order(self.row, 0), ("daemon", "testpmd", "floor"))
        self.assertEqual(bench.order(self.row, 1), ("floor", "testpmd", "daemon"))


class Rows(unittest.TestCase):
    def test_names_are_unique(self):
        names = [row.name for row in rows.full()]
        self.assertEqual(len(names), len(set(names)))

    def test_the_smaller_sets_are_parts_of_the_full_one(self):
        self.assertLessEqual(set(rows.quick()) | set(rows.usual()), set(rows.full()))

    def test_rows_are_chosen_by_pattern(self):
        self.assertEqual([row.name for row in rows.select("usual", ["null-64-split"])],
                         ["null-64-split"])
        with self.assertRaises(ValueError):
            rows.select("usual", ["nothing-*"])

    def test_every_row_can_be_measured(self):
        self.assertLessEqual({row.scenario for row in rows.full()}, set(bench.MEASURES))


class Output(unittest.TestCase):
    def test_a_ratio_says_when_it_is_a_bound(self):
        value = {"median": 1.5, "minimum": 1.25, "maximum": 2.0, "count": 5}
        self.assertEqual(tables.ratio(value, "at least"), "≥ 1.50 (1.25-2.00)")

    def test_path_cost(self):
        self.assertIn("| `transmit split 64` | 95.5 |",
                      tables.path_cost("# comment\ntransmit split 64 95.5\n"))

    def test_parts_are_replaced_between_markers(self):
        text = "a\n<!-- bench:x -->\nold\n<!-- end -->\nb\n<!-- bench:y -->\n<!-- end -->\n"
        self.assertEqual(
            document.replace(text, "x", "new"),
            "a\n<!-- bench:x -->\n\nnew\n\n<!-- end -->\nb\n<!-- bench:y -->\n<!-- end -->\n")
        with self.assertRaises(ValueError):
            document.replace(text, "z", "new")

    def test_the_document_has_every_part(self):
        with open(bench.DOCUMENT, encoding="utf-8") as file:
            text = file.read()
        for part in [*tables.PARTS, "machine", "path-cost"]:
            document.replace(text, part, "")

    def test_axes_have_round_numbers(self):
        self.assertEqual(charts.scale(6.3), (7, 1))
        self.assertEqual(charts.scale(19.2), (20, 5))

    def test_charts_are_xml_for_light_and_dark_pages(self):
        value = {"median": 2.0, "minimum": 1.0, "maximum": 3.0}
        svg = charts.bars("A & B", "Mpps", ("x", "y"), [("one", [value, None])])
        self.assertEqual(xml.dom.minidom.parseString(svg).documentElement.tagName, "svg")
        self.assertIn("prefers-color-scheme: dark", svg)


if __name__ == "__main__":
    unittest.main()
