package doors

import (
	"maps"
	"regexp"
	"strings"
)

// Price is what a model's tokens cost, in US dollars per million.
type Price struct{ Input, Output, CacheRead, CacheWrite float64 }

// Prices are the known prices by the model's name.
type Prices map[string]Price

// listPrices are the providers' published list prices of late 2025 for some
// models in common use; what the operator says wins over them.
var listPrices = Prices{
	"claude-opus-4-5":   {Input: 5, Output: 25, CacheRead: 0.5, CacheWrite: 6.25},
	"claude-sonnet-4-5": {Input: 3, Output: 15, CacheRead: 0.3, CacheWrite: 3.75},
	"claude-haiku-4-5":  {Input: 1, Output: 5, CacheRead: 0.1, CacheWrite: 1.25},
	"gpt-5":             {Input: 1.25, Output: 10, CacheRead: 0.125},
	"gpt-5-mini":        {Input: 0.25, Output: 2, CacheRead: 0.025},
}

// NewPrices returns the list prices with the operator's own put over them.
func NewPrices(own Prices) Prices {
	all := maps.Clone(listPrices)
	maps.Copy(all, own)
	return all
}

var releaseDate = regexp.MustCompile(`-\d{4}-?\d{2}-?\d{2}$`)

// Find returns the price of a model: by its name, else by its name without the
// vendor before a slash, else without the release date behind it.
func (p Prices) Find(model string) (Price, bool) {
	if price, ok := p[model]; ok {
		return price, true
	}
	bare := model[strings.LastIndexByte(model, '/')+1:]
	if price, ok := p[bare]; ok {
		return price, true
	}
	price, ok := p[releaseDate.ReplaceAllString(bare, "")]
	return price, ok
}

// Cost returns what a usage costs in US dollars, and whether the model's price
// is known; if not, the cost is 0.
func (p Prices) Cost(model string, u Usage) (usd float64, known bool) {
	price, ok := p.Find(model)
	if !ok {
		return 0, false
	}
	perMillion := float64(u.Input)*price.Input + float64(u.Output)*price.Output +
		float64(u.CacheRead)*price.CacheRead + float64(u.CacheWrite)*price.CacheWrite
	return perMillion / 1e6, true
}
