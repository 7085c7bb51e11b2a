// Evaluates a health check as Argo CD does: with the interpreter that is built
// into it, and with nothing but what its sandbox has, which is the libraries
// package, base, table, and an os of which only dates and times are left.
// https://argo-cd.readthedocs.io/en/stable/operator-manual/health/#custom-health-checks
//
// The argument is the script's file. Each line of input is an object in JSON;
// each line of output is its health, or what went wrong.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	lua "github.com/yuin/gopher-lua"
)

// patience is ten times Argo CD's: tests run on machines that are busy.
const patience = 10 * time.Second

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
	Error   string `json:"error,omitempty"`
}

func main() {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	input := bufio.NewReader(os.Stdin)
	output := json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			result, failure := evaluate(string(script), line)
			if failure != nil {
				result.Error = failure.Error()
			}
			if output.Encode(result) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// evaluate gives the health of an object.
func evaluate(script string, object []byte) (health, error) {
	var value any
	decoder := json.NewDecoder(bytes.NewReader(object))
	decoder.UseNumber()
	if err := decoder.Decode(&value); err != nil {
		return health{}, err
	}
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	libraries := []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
		{lua.OsLibName, openClock},
	}
	for _, library := range libraries {
		call := lua.P{Fn: state.NewFunction(library.open), Protect: true}
		if err := state.CallByParam(call, lua.LString(library.name)); err != nil {
			return health{}, err
		}
	}
	limit, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state.SetContext(limit)
	state.SetGlobal("obj", toLua(state, value))
	if err := state.DoString(script); err != nil {
		return health{}, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return health{}, errors.New("the script gives no table")
	}
	result := health{}
	for name, field := range map[string]*string{"status": &result.Status, "message": &result.Message} {
		switch found := table.RawGetString(name).(type) {
		case lua.LString:
			*field = string(found)
		case *lua.LNilType:
		default:
			return health{}, fmt.Errorf("%s is no string but %s", name, found.Type())
		}
	}
	known := "Healthy Progressing Degraded Suspended Missing Unknown"
	for _, word := range strings.Fields(known) {
		if word == result.Status {
			return result, nil
		}
	}
	return health{}, fmt.Errorf("there is no health %q", result.Status)
}

// openClock is the os of the sandbox.
func openClock(state *lua.LState) int {
	lua.OpenOs(state)
	full := state.GetGlobal(lua.OsLibName).(*lua.LTable)
	left := state.NewTable()
	for _, name := range []string{"date", "time"} {
		left.RawSetString(name, full.RawGetString(name))
	}
	state.SetGlobal(lua.OsLibName, left)
	return 0
}

// toLua hands on whole numbers as numbers, as they are in an object that was
// read from an API server.
func toLua(state *lua.LState, value any) lua.LValue {
	switch value := value.(type) {
	case bool:
		return lua.LBool(value)
	case string:
		return lua.LString(value)
	case json.Number:
		number, err := value.Float64()
		if err != nil {
			return lua.LNil
		}
		return lua.LNumber(number)
	case []any:
		list := state.NewTable()
		for _, item := range value {
			list.Append(toLua(state, item))
		}
		return list
	case map[string]any:
		table := state.NewTable()
		for key, item := range value {
			table.RawSetString(key, toLua(state, item))
		}
		return table
	}
	return lua.LNil
}
