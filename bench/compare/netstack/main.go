// One end of the comparison, on wireguard-go's netstack. Its twin on our library is tests/embed/netstack_end.cpp, which
// tells what an end does and prints.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/curve25519"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func cpu() float64 {
	var used syscall.Rusage
	must(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	return float64(used.Utime.Sec+used.Stime.Sec) + float64(used.Utime.Usec+used.Stime.Usec)/1e6
}

func peakKiB() int {
	status, err := os.ReadFile("/proc/self/status")
	must(err)
	for _, line := range strings.Split(string(status), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			must(err)
			return kib
		}
	}
	return 0
}

func serve(tnet *netstack.Net, count int) float64 {
	listener, err := tnet.ListenTCPAddrPort(netip.MustParseAddrPort("10.88.0.2:80"))
	must(err)
	block, request, busy := make([]byte, 1<<16), make([]byte, 1), 0.0
	for {
		c, err := listener.Accept()
		must(err)
		_, err = io.ReadFull(c, request)
		must(err)
		began := cpu()
		switch request[0] {
		case 's':
			c.Write(block[:1])
		case 'b':
			for left := count; left > 0; {
				sent, err := c.Write(block[:min(left, len(block))])
				must(err)
				left -= sent
			}
		case 'q':
			c.Close()
			time.Sleep(50 * time.Millisecond)
			return busy
		}
		c.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, c)
		c.Close()
		if request[0] == 'b' {
			busy += cpu() - began
		}
	}
}

// ask returns the time to the first octet of the answer, and to its end.
func ask(tnet *netstack.Net, request byte, into []byte) (time.Duration, time.Duration, int) {
	began, total := time.Now(), 0
	c, err := tnet.DialTCPAddrPort(netip.MustParseAddrPort("10.88.0.2:80"))
	must(err)
	_, err = c.Write([]byte{request})
	must(err)
	var first time.Duration
	for {
		got, err := c.Read(into)
		if total == 0 {
			first = time.Since(began)
		}
		total += got
		if err == io.EOF {
			break
		}
		must(err)
	}
	c.Close()
	return first, time.Since(began), total
}

func main() {
	server := os.Args[1] == "server"
	megabytes, err := strconv.Atoi(os.Args[2])
	must(err)
	local, remote := "10.88.0.1", "10.88.0.2"
	if server {
		local, remote = remote, local
	}
	tun, tnet, err := netstack.CreateNetTUN([]netip.Addr{netip.MustParseAddr(local)}, nil, 1420)
	must(err)
	dev := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	private := make([]byte, 32)
	_, err = rand.Read(private)
	must(err)
	public, err := curve25519.X25519(private, curve25519.Basepoint)
	must(err)
	must(dev.IpcSet("private_key=" + hex.EncodeToString(private) + "\nlisten_port=0\n"))
	must(dev.Up())
	var state bytes.Buffer
	must(dev.IpcGetOperation(&state))
	_, port, _ := strings.Cut(state.String(), "listen_port=")
	port, _, _ = strings.Cut(port, "\n")
	fmt.Println(base64.StdEncoding.EncodeToString(public), net.JoinHostPort("127.0.0.1", port))

	var key, endpoint string
	_, err = fmt.Fscan(bufio.NewReader(os.Stdin), &key, &endpoint)
	must(err)
	theirs, err := base64.StdEncoding.DecodeString(key)
	must(err)
	must(dev.IpcSet("public_key=" + hex.EncodeToString(theirs) + "\nendpoint=" + endpoint + "\nallowed_ip=" + remote + "/32\n"))
	if server {
		busy := serve(tnet, megabytes*1000000)
		fmt.Fprintf(os.Stderr, `{"end":"netstack/server","cpu_s":%.4f,"peak_kib":%d}`+"\n", busy, peakKiB())
		return
	}
	into := make([]byte, 1<<16)
	time.Sleep(300 * time.Millisecond) // the server knows us by now: an initiation that came too early costs 5 s
	cold, _, _ := ask(tnet, 's', into)
	warm := []time.Duration{}
	for i := 0; i < 21; i++ {
		first, _, _ := ask(tnet, 's', into)
		warm = append(warm, first)
	}
	sort.Slice(warm, func(a, b int) bool { return warm[a] < warm[b] })
	before := cpu()
	_, took, got := ask(tnet, 'b', into)
	busy := cpu() - before
	if got != megabytes*1000000 {
		fmt.Fprintln(os.Stderr, "incomplete:", got)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, `{"end":"netstack/client","first_cold_ms":%.3f,"first_warm_ms":%.3f,"bulk_s":%.4f,"cpu_s":%.4f,"peak_kib":%d}`+"\n",
		float64(cold.Microseconds())/1000, float64(warm[len(warm)/2].Microseconds())/1000, took.Seconds(), busy, peakKiB())
	ask(tnet, 'q', into)
	time.Sleep(50 * time.Millisecond)
}
