package main

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
)

// As an expectation: whatever is there, but something.
const anything = "<any>"

var (
	placeholder = regexp.MustCompile(`\$\{(\w+)\}`)
	pathStep    = regexp.MustCompile(`([^.\[\]]+)|\[(\d+)\]`)
)

// filled is the value with every ${name}, also inside a longer string, replaced by what was captured.
func filled(value any, captured map[string]string) any {
	switch value := value.(type) {
	case string:
		return placeholder.ReplaceAllStringFunc(value, func(found string) string {
			if known, ok := captured[found[2:len(found)-1]]; ok {
				return known
			}
			return found
		})
	case []any:
		changed := make([]any, len(value))
		for i, item := range value {
			changed[i] = filled(item, captured)
		}
		return changed
	case map[string]any:
		changed := map[string]any{}
		for key, item := range value {
			changed[key] = filled(item, captured)
		}
		return changed
	}
	return value
}

// at is the string that stands at a path: devices[0].uid.
func at(answer any, path string) (string, error) {
	current := answer
	for _, part := range pathStep.FindAllStringSubmatch(path, -1) {
		switch found := current.(type) {
		case map[string]any:
			current = found[part[1]]
		case []any:
			index, err := strconv.Atoi(part[2])
			if err != nil || index >= len(found) {
				return "", fmt.Errorf("nothing is at %s", path)
			}
			current = found[index]
		}
	}
	text, ok := current.(string)
	if !ok {
		return "", fmt.Errorf("no string is at %s", path)
	}
	return text, nil
}

// differences tells where an answer is not as expected, a line each.
func differences(expected, found any, where string) []string {
	if expected == any(anything) {
		return nil
	}
	switch expected := expected.(type) {
	case map[string]any:
		if found, ok := found.(map[string]any); ok {
			return differencesOfFields(expected, found, where)
		}
	case []any:
		if found, ok := found.([]any); ok {
			return differencesOfItems(expected, found, where)
		}
	}
	if !reflect.DeepEqual(expected, found) {
		return []string{fmt.Sprintf("%s is %v, expected %v", where, found, expected)}
	}
	return nil
}

func differencesOfFields(expected, found map[string]any, where string) (different []string) {
	keys := maps.Clone(expected)
	maps.Copy(keys, found)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		path := key
		if where != "" {
			path = where + "." + key
		}
		wanted, isWanted := expected[key]
		got, isThere := found[key]
		switch {
		case !isThere:
			different = append(different, fmt.Sprintf("%s is missing, expected %v", path, wanted))
		case !isWanted:
			different = append(different, fmt.Sprintf("%s is %v, expected to be absent", path, got))
		default:
			different = append(different, differences(wanted, got, path)...)
		}
	}
	return different
}

func differencesOfItems(expected, found []any, where string) (different []string) {
	if len(expected) != len(found) {
		different = append(different, fmt.Sprintf("%s has %d entries, expected %d", where, len(found), len(expected)))
	}
	for i := range min(len(expected), len(found)) {
		different = append(different, differences(expected[i], found[i], fmt.Sprintf("%s[%d]", where, i))...)
	}
	return different
}
