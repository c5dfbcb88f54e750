//go:build tools

package suite

import _ "github.com/onsi/ginkgo/v2/ginkgo"
