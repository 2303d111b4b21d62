package main

import (
	"encoding/json"
	"reflect"
	"testing"
)

func parsed(t *testing.T, text string) any {
	t.Helper()
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	return value
}

func TestDifferencesAreTold(t *testing.T) {
	for _, row := range []struct {
		expected, found string
		told            []string
	}{
		{`{"a": 1, "b": ["x", "<any>"]}`, `{"a": 1, "b": ["x", {"deep": true}]}`, nil},
		{`{"a": "<any>"}`, `{}`, []string{"a is missing, expected <any>"}},
		{`{}`, `{"a": {"b": 1}}`, []string{"a is map[b:1], expected to be absent"}},
		{`{"a": {"b": 1}}`, `{"a": {"b": "1"}}`, []string{"a.b is 1, expected 1"}},
		{`{"a": [1, 2]}`, `{"a": [1, 3, 4]}`, []string{"a has 3 entries, expected 2", "a[1] is 3, expected 2"}},
		{`{"a": []}`, `{"a": {}}`, []string{"a is map[], expected []"}},
		{`{"a": false}`, `{"a": true}`, []string{"a is true, expected false"}},
	} {
		if told := differences(parsed(t, row.expected), parsed(t, row.found), ""); !reflect.DeepEqual(told, row.told) {
			t.Errorf("%s against %s: %q, expected %q", row.found, row.expected, told, row.told)
		}
	}
}

func TestCapturedValuesFillLaterSteps(t *testing.T) {
	token, err := at(parsed(t, `[{"devices": [{}, {"uid": "dev-7"}]}]`), "[0].devices[1].uid")
	if err != nil || token != "dev-7" {
		t.Fatalf("%q, %v", token, err)
	}
	request := parsed(t, `{"devices": ["${uid}", "no ${uid}!"], "count": 3, "other": "${unknown}"}`)
	want := parsed(t, `{"devices": ["dev-7", "no dev-7!"], "count": 3, "other": "${unknown}"}`)
	if got := filled(request, map[string]string{"uid": token}); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestACaptureOfNothingIsAnError(t *testing.T) {
	for _, path := range []string{"b", "a[3]", "a"} {
		if found, err := at(parsed(t, `{"a": ["x"]}`), path); err == nil {
			t.Errorf("%s: %q", path, found)
		}
	}
}
