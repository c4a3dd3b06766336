# make demo    a guest talks to another host through the daemon (as root; see Tests/System/demo.sh)
# make clean   removes what was built; make distclean the downloaded QEMU and kernel as well

.PHONY: build demo clean distclean

build:
	swift build -c release

demo:
	Tests/System/demo.sh

clean:
	rm -rf .build

distclean: clean
	rm -rf .lab
