// Another implementation of the distribution specification than Debian's: go-containerregistry's, which lists referrers.
package main

import (
	"flag"
	"fmt"
	"log"
	"net/http"

	"github.com/google/go-containerregistry/pkg/registry"
)

func main() {
	port := flag.Int("port", 1338, "where to listen, on this machine")
	flag.Parse()
	address := fmt.Sprintf("127.0.0.1:%d", *port)
	log.Fatal(http.ListenAndServe(address, registry.New(registry.WithReferrersSupport(true))))
}
